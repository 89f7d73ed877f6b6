"""Stages quality and evaluate on the tiny lake, which share their test pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qarm.errors import MissingStageError, RowsLostError
from qarm.evaluation import held_out_pairs
from qarm.lake import files, manifest
from qarm.stages import evaluate, quality
from qarm.stages.evaluate import _test_pairs, run
from tests.lakes.evaluation import write


@pytest.fixture(scope="module")
def measured_codes(tiny_context):
    """Codes without a codebook, measured by stage quality on the tiny lake."""
    context = replace(tiny_context(), stage="quality")
    codes = [[0, 1], [0, 1], [1, 0], [0, 0], [1, 1], [1, 0], [1, 2]]
    ids = [
        {"item_id": str(i), "item_idx": i, "codebook_id": "mine", "rq": rq, "vq": []}
        for i, rq in enumerate(codes)
    ]
    write(context, "semantic_ids", ids)
    return quality.run(context)


@pytest.fixture
def saved(tiny_context, measured_codes):
    """The manifest of stage quality with its test pairs; returns their URI."""
    root = tiny_context().lake.root
    artifacts = measured_codes.artifacts
    manifest.publish(root, manifest.Manifest("quality", "r", "", "", {}, {}, artifacts))
    yield artifacts[held_out_pairs.ARTIFACT]["uri"]
    files.remove_tree(files.join(root, "manifests", "quality.json"))


@pytest.fixture(scope="module")
def result(tiny_context):
    context = tiny_context(evaluation={"recall_at": [2]})
    return run(context), context


def test_rows_add_up_and_every_figure_is_in_the_table(result) -> None:
    found, context = result
    for ledger in found.ledgers:
        ledger.close("evaluate")
    assert found.ledgers[0].rows_in == found.ledgers[0].rows_out == 480
    assert [ledger.name for ledger in found.ledgers[1:]] == [
        "distinct test pairs, u2i",
        "distinct test pairs, swing",
    ]
    table = context.table("metrics")
    assert table.count() == len(found.metrics)
    names = {m.metric for m in found.metrics}
    assert {"auc", "auc[top]", "uauc", "gauc", "log_loss", "auc_gain", "recall@2"} <= names


def test_predictions_that_are_lost_do_not_add_up(tiny_context, monkeypatch) -> None:
    """Fault injected: a tenth of the predictions is not judged."""
    judge = evaluate.ranking_metrics.evaluate
    monkeypatch.setattr(
        evaluate.ranking_metrics,
        "evaluate",
        lambda rows, *given: judge(rows.where("monotonically_increasing_id() % 10 <> 0"), *given),
    )
    with pytest.raises(RowsLostError, match="predictions"):
        evaluate._evaluate_ranker(tiny_context()).ledgers[0].close("evaluate")


def test_recall_of_every_space(result) -> None:
    found, _ = result
    recall = {(m.variant, m.slice): m for m in found.metrics if m.metric == "recall@2"}
    assert {v for v, s in recall if s == "u2i all"} == {
        "aligned", "raw", "raw:text", "raw:image", "raw:concat", "id_vectors", "chance",
    }  # fmt: skip
    # Six items of the log, so five candidates; item 6 is in the catalogue only.
    assert recall["chance", "u2i all"].value == pytest.approx(2 / 5)
    best = max(recall[f"raw:{m}", "swing warm"].value for m in ("text", "image", "concat"))
    assert recall["raw", "swing warm"].value == best
    # By ID vectors 1's neighbours are 0 and 4; 3's are 2 and 4.
    assert recall["id_vectors", "swing all"].value == 0
    assert recall["id_vectors", "u2i cold"].value == 1
    facts = found.facts["new_pairs"]
    assert facts["candidates"] == 5
    assert facts["sources"]["swing"]["without_vector"]["raw:image"] == 2


def test_without_pairs_only_the_ranker_is_judged(tiny_context) -> None:
    context = tiny_context()
    del context.outputs["item_pairs"]
    found = run(context)
    assert not [m for m in found.metrics if m.metric.startswith("recall")]
    assert found.facts["new_pairs"] == {"left_out": "no table item_pairs"}


def test_without_predictions_says_which_stage_is_missing(tiny_context) -> None:
    context = tiny_context()
    del context.outputs["predictions"]
    with pytest.raises(MissingStageError, match="predictions"):
        run(context)


def test_pairs_are_unknown_to_training_and_need_no_codebook(measured_codes) -> None:
    """The tiny log has User2Item pairs 0 -> 1, 2 -> 3 (known as 3 -> 2) and 1 -> 3 (its user's)."""
    figures = {(m.metric, m.slice): m for m in measured_codes.metrics}
    # 0 -> 1 shares both numbers, 1 -> 3 the first one.
    assert figures["rq_pair_agreement_l1", "u2i all"].n == 2
    assert figures["rq_pair_agreement_l1", "u2i all"].value == 1.0
    assert figures["rq_pair_agreement_l2", "u2i all"].value == 0.5
    assert measured_codes.facts["pairs_u2i"]["known_from_training"] == 1
    # Codes without their codebook: sizes are those seen, nothing is reconstructed.
    assert measured_codes.facts["rq_sizes"] == [2, 3]
    assert figures["shared_rate", "all"].value == pytest.approx(4 / 7)
    assert "rq_prefix_cosine_l1" in {m for m, _ in figures}
    assert not any("reconstruction" in m or "overlap" in m for m, _ in figures)
    assert set(measured_codes.facts["left_out"]) >= {
        "unused codes",
        "reconstruction and neighbours",
        "purity",
    }


def test_saved_pairs_are_used_only_if_nothing_differs(tiny_context, saved, monkeypatch) -> None:
    anew: list[dict] = []
    monkeypatch.setattr(held_out_pairs, "mine_test_pairs", lambda *args: anew.append(args) or {})
    assert _test_pairs(tiny_context()).keys() == {"u2i", "swing"}
    assert not anew
    assert _test_pairs(tiny_context(evaluation={"max_pairs": 1})) == {}
    other = tiny_context()
    ref = other.ref("item_pairs")
    other.outputs["item_pairs"] = replace(ref, version=ref.version - 1)
    monkeypatch.setattr(type(other), "table", lambda self, name: name)
    assert _test_pairs(other) == {}
    files.remove_tree(saved)
    assert _test_pairs(tiny_context()) == {}
    assert len(anew) == 3
