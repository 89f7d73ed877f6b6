"""Tables of stage quality, from literal metrics."""

from __future__ import annotations

from qarm.report.quality_tables import code_lines


def _metric(metric: str, value: float, variant: str = "rq", **fields) -> dict:
    row = {"stage": "quality", "slice": "all", "part": "", "n": 30, "low": None, "high": None}
    return {**row, "metric": metric, "value": value, "variant": variant, **fields}


def test_a_table_per_subject() -> None:
    metrics = [
        _metric("rq_utilisation_l1", 1.0),
        _metric("rq_utilisation_l2", 0.5),
        _metric("rq_prefix_cosine_l0", 0.1),
        _metric("rq_prefix_cosine_l1", 0.25),  # no two items share both levels
        _metric("duplicate_rate", 0.125),
        _metric("shared_rate", 0.25, slice="all"),
        _metric("rq_cosine_l1", 0.75),
        _metric("neighbour_overlap@20", 0.5, low=0.4, high=0.6),
        _metric("neighbour_overlap_chance@20", 0.0125),
        _metric("rq_pair_agreement_l1", 0.07, slice="u2i all", part="test"),
        _metric("rq_pair_agreement_chance_l1", 0.01, slice="u2i all", part="test"),
        _metric("rq_purity_l1", 0.6, slice="field genre"),
        _metric("rq_changed_l1", 0.2),
        _metric("zero_vectors", 3.0, ""),
    ]
    facts = {
        "codebook_id": "book",
        "rq_sizes": [4, 4],
        "vq_anchors": 0,
        "before": "older",
        "left_out": {"purity": "no table items"},
    }
    assert code_lines(metrics, facts) == [
        "Codebook book: RQ levels 4 x 4, 0 VQ anchors",
        "",
        "RQ by level, all items",
        "                                  1       2",
        "  codes in use              100.0 %  50.0 %",
        "  cosine to the item          0.750       -",
        "  cosine inside the prefix    0.250       -",
        "",
        "Collisions by slice",
        "           items  duplicate rate  shared rate  items per code  largest code  cosine",
        "  RQ, all     30         12.50 %      25.00 %               -             -   0.750",
        "",
        "Jaccard index of the 20 nearest items in code space and in vector space",
        "           queries  overlap   95 % interval  chance",
        "  RQ, all       30    0.500  0.400 to 0.600  0.0125",
        "",
        "Held-out pairs that share a prefix, and chance level",
        "                  pairs      prefix of 1",
        "  User2Item, all     30  7.00 % (1.00 %)",
        "",
        "Items with the most common category of their prefix, and chance level",
        "         items  prefix of 1",
        "  genre     30      60.00 %",
        "",
        "Change by level since codebook older, 30 items in both",
        "                       1",
        "  number changed  20.0 %",
        "",
        "Mean cosine of any two items: 0.100",
        "Zero vectors, which have no direction: 3",
        "Left out: purity (no table items)",
    ]


def test_nothing_measured() -> None:
    assert code_lines([], {}) == ["Codebook : RQ levels none, 0 VQ anchors"]
