"""The stage end to end on the tiny lake."""

from __future__ import annotations

import pytest

from qarm.errors import MissingStageError
from qarm.stages.evaluate import run


@pytest.fixture
def result(tiny_lake):
    context = tiny_lake(evaluation={"recall_at": [2], "groups": 4})
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


def test_without_pairs_only_the_ranker_is_judged(tiny_lake) -> None:
    context = tiny_lake()
    del context.outputs["item_pairs"]
    found = run(context)
    assert not [m for m in found.metrics if m.metric.startswith("recall")]
    assert found.facts["new_pairs"] == {"left_out": "no table item_pairs"}


def test_without_predictions_says_which_stage_is_missing(tiny_lake) -> None:
    context = tiny_lake()
    del context.outputs["predictions"]
    with pytest.raises(MissingStageError, match="predictions"):
        run(context)
