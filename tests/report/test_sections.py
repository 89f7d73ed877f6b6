"""Sections of the report from literal manifests and metrics."""

from __future__ import annotations

from typing import Any

import pytest

from qarm.lake.manifest import Manifest
from qarm.report import sections
from qarm.report.aggregates import PairSource
from qarm.report.figures import Figures


def manifest(stage: str, facts: dict | None = None, result: dict | None = None) -> Manifest:
    return Manifest(stage, "r", "c", "v", {}, {}, facts=facts or {}, result=result or {})


def metric(stage: str, name: str, value: float, **keys: Any) -> dict[str, Any]:
    row = {"stage": stage, "metric": name, "value": value, "n": 100, "variant": "", "slice": "all"}
    return {**row, "part": "test", "low": None, "high": None, **keys}


def captions(plots: list[tuple[str, str]]) -> list[str]:
    assert all(svg.startswith("<svg") for _, svg in plots)
    return [caption for caption, _ in plots]


def test_stages_that_have_not_run_have_no_section() -> None:
    assert sections.log({}) is None
    assert sections.rows({}, ["ingest"]) == []
    assert sections.pairs(Figures([]), [], {}) is None
    assert sections.alignment({}, Figures([]), 50) is None
    assert sections.ranker({"train-ranker": manifest("train-ranker")}, Figures([])) is None


LOG = {
    "parts": {"train": 80, "test": 20, "valid": 0},
    "positives": {"train": 8},
    "train_end": "2024-01-03T00:00:00",
    "log": {
        "over_time": {"start": "2024-01-01", "bucket_days": 1, "counts": [50, 30, 20]},
        "degrees": {"users": {"p0": 1, "p50": 3, "p100": 9}, "items": {"p0": 1, "p100": 40}},
    },
}


def test_log_lists_the_parts_that_have_events() -> None:
    log = sections.log({"ingest": manifest("ingest", {**LOG, "split": {"kind": "global"}})})
    assert log is not None
    assert log.parts == [("train", 80, 8), ("test", 20, 0)]
    assert captions(log.plots) == [
        "Events over time",
        "Events per user and per item (percentiles)",
    ]


def test_only_a_split_by_date_has_shaded_periods() -> None:
    log = sections.log({"ingest": manifest("ingest", {**LOG, "split": {"kind": "per_user"}})})
    assert log is not None
    assert "not by date" in captions(log.plots)[0]


def test_a_log_without_times_has_no_plot_over_time() -> None:
    log = sections.log({"ingest": manifest("ingest", {"parts": {"train": 5}})})
    assert log is not None
    assert (log.parts, log.plots) == ([("train", 5, 0)], [])


def test_rows_of_every_ledger_in_the_order_of_the_stages() -> None:
    ledger = {"name": "items", "rows_in": 5, "rows_out": 5}
    result = {
        "counted": "log lines",
        "rows_in": 100,
        "rows_out": 91,
        "dropped": {"duplicate": 2, "bad_time": 7, "no_user": 0},
        "ledgers": [ledger],
    }
    samples = {"counted": "samples", "rows_in": 1, "rows_out": 4, "added": {"negative": 3}}
    manifests = {
        "build-samples": manifest("build-samples", result=samples),
        "ingest": manifest("ingest", result=result),
    }
    rows = sections.rows(manifests, ["ingest", "mine-pairs", "build-samples"])
    assert [(row.stage, row.counted, row.first) for row in rows] == [
        ("ingest", "log lines", True),
        ("ingest", "items", False),
        ("build-samples", "samples", True),
    ]
    assert list(rows[0].dropped.items()) == [("bad_time", 7), ("duplicate", 2)]
    assert rows[2].added == {"negative": 3}


def source(name: str, log_score: bool = False) -> PairSource:
    return PairSource(name, 10, 4, 5, 2.0, log_score, [0.0, 0.5, 1.0], [3, 7], [6, 4])


def test_pairs_come_in_the_order_of_the_known_sources() -> None:
    figures = Figures([metric("mine-pairs", "item_coverage", 0.75, variant="swing", part="train")])
    skew = {"itemcf": {"share_of_pairs": 0.125, "largest_list": 1234, "loss": None}}
    of = [source("itemcf", True), source("mine_own"), source("swing", True), source("u2i")]
    pairs = sections.pairs(figures, of, skew)
    assert pairs is not None
    assert [name for name, _, _ in pairs.sources] == ["User2Item", "Swing", "ItemCF", "mine_own"]
    coverage = [None if figure is None else figure.value for _, _, figure in pairs.sources]
    assert coverage == [None, 0.75, None, None]
    assert captions(pairs.plots)[:3] == [
        "User2Item: mean cosine",
        "User2Item: support",
        "Swing: log₁₀ score",
    ]
    assert "mine_own: score" in captions(pairs.plots)
    assert pairs.skew == [
        (
            "ItemCF",
            [
                ("share of pairs", "12.50%"),
                ("largest list", "1,234"),
                ("loss", "not estimated: no trigger of the sample has a pair"),
            ],
        )
    ]


def recalls(slice: str, n: int = 100, **values: float) -> list[dict[str, Any]]:
    return [
        metric("evaluate", "recall@50", value, variant=space, slice=slice, n=n)
        for space, value in values.items()
    ]


def test_alignment_compares_the_spaces_on_new_pairs() -> None:
    rows = [
        *recalls("u2i all", aligned=0.4, raw=0.2, chance=0.1, own=0.3),
        *recalls("u2i warm", aligned=0.5, raw=0.3),
        *recalls("u2i cold", n=sections.MIN_PLOTTED - 1, aligned=0.2, raw=0.2),
        metric("evaluate", "recall_ratio@50", 2.0, variant="aligned/raw", slice="u2i all"),
        metric("evaluate", "recall@10", 0.9, variant="ignored", slice="u2i all"),
    ]
    found = sections.alignment({"evaluate": manifest("evaluate")}, Figures(rows), 50)
    assert found is not None
    assert found.spaces == ["chance", "raw", "aligned", "own"]
    assert [(name, kind, n) for name, kind, n, _, _ in found.table] == [
        ("User2Item", "all", 100),
        ("User2Item", "warm", 100),
        ("User2Item", "cold", sections.MIN_PLOTTED - 1),
    ]
    _, _, _, values, ratio = found.table[0]
    assert {space: figure.value for space, figure in values.items()} == {
        "chance": 0.1,
        "raw": 0.2,
        "aligned": 0.4,
        "own": 0.3,
    }
    assert ratio is not None
    assert ratio.value == 2.0
    assert found.table[1][4] is None
    assert found.left_out == ""
    (caption,), ((_, drawing),) = captions(found.plots), found.plots
    assert "50 nearest" in caption
    assert "warm" in drawing
    assert "cold" not in drawing, "too few pairs for the plot"


@pytest.mark.parametrize(
    ("stage", "facts", "reason"),
    [
        ("train-alignment", {}, "stage evaluate has not run"),
        ("evaluate", {}, "the test part has no new pairs"),
        ("evaluate", {"new_pairs": {"left_out": "no vectors"}}, "no vectors"),
    ],
)
def test_why_there_is_no_table_of_recalls(stage: str, facts: dict, reason: str) -> None:
    found = sections.alignment({stage: manifest(stage, facts)}, Figures([]), 50)
    assert found is not None
    assert (found.table, found.left_out) == ([], reason)


def test_training_curves() -> None:
    facts = {
        "history": [
            {"epoch": 0, "train_loss": 3.0, "recall@50": 0.2},
            {"epoch": 1, "train_loss": 2.5, "recall@50": 0.3},
        ],
        "start": {"recall@50": 0.1},
        "best_epoch": 1,
    }
    of = {"train-alignment": manifest("train-alignment", facts)}
    found = sections.alignment(of, Figures([]), 50)
    assert found is not None
    assert captions(found.plots) == [
        "Held-out training pairs during alignment (epoch 0: before training)",
        "Contrastive loss",
    ]
    assert "epoch kept" in found.plots[0][1]


def test_ranker_has_one_head_per_label() -> None:
    rows = [
        metric("evaluate", "auc", 0.7, variant="base"),
        metric("evaluate", "auc", 0.72, variant="rq", low=0.71, high=0.73),
        metric("evaluate", "auc", 0.6, variant="floor"),
        metric("evaluate", "auc", 0.71, variant="rq", part="valid"),
        metric("evaluate", "auc_gain", 0.02, variant="rq", low=0.01, high=0.03),
        metric("evaluate", "auc", 0.65, variant="rq", slice="cold", n=40),
        metric("evaluate", "auc_gain", 0.05, variant="rq", slice="cold", n=40),
        metric("evaluate", "auc[buy]", 0.8, variant="base"),
        metric("evaluate", "auc[empty]", 0.8, variant="base", part="valid"),
    ]
    facts = {
        "slices": [["cold", "items without events"], ["head", "most frequent items"]],
        "head_events": 20,
    }
    manifests = {
        "evaluate": manifest("evaluate", facts),
        "train-ranker": manifest("train-ranker", {"trials": [{"variant": "rq"}]}),
    }
    ranker = sections.ranker(manifests, Figures(rows))
    assert ranker is not None
    assert [head.name for head in ranker.heads] == ["", "buy"], "no head without a test figure"
    assert ranker.trials == [{"variant": "rq"}]
    assert ranker.slice_meanings["cold"] == "items without events"
    assert ranker.head_events == 20
    head, buy = ranker.heads
    assert head.variants == ["floor", "base", "rq"]
    values = dict(head.table)["rq"]
    assert {name: f.value for name, f in values.items() if f} == {
        "auc": 0.72,
        "auc_gain": 0.02,
        "valid": 0.71,
    }
    assert [(where, n) for where, n, _, _ in head.slices] == [("cold", 40)]
    assert captions(head.plots) == ["Gain over base by slice; lines are 95 % intervals over users"]
    assert "cold (n = 40)" in head.plots[0][1]
    assert (buy.variants, buy.slices, buy.plots) == (["base"], [], [])
