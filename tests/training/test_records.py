"""Records survive a checkpoint: their JSON has equal bits, and says what is wrong."""

from __future__ import annotations

import math

import pytest

from qarm.training.records import FitResult, RunningEpoch
from qarm.training.wire import from_json, to_json


def test_a_result_comes_back() -> None:
    result = FitResult(
        history=[{"epoch": 0.0, "train_loss": 0.1 + 0.2}, {"epoch": 1.0, "train_loss": 1e-300}],
        best_epoch=1,
        best_metrics={"recall@50": 1 / 3},
        rows_per_rank=[100, 99],
        seconds=12.5,
        input_wait_share=0.25,
        epochs_done=2,
        resumed_from=1,
        resumed_step=17,
    )
    assert from_json(FitResult, to_json(result)) == result


def test_a_loss_that_is_not_finite_comes_back() -> None:
    text = to_json(RunningEpoch(step=3, loss_sum=math.nan, weight_sum=math.inf))
    running = from_json(RunningEpoch, text)
    assert math.isnan(running.loss_sum)
    assert (running.step, running.weight_sum, running.rows) == (3, math.inf, 0)


def test_a_new_training_has_done_nothing() -> None:
    result = FitResult()
    assert result.best_epoch == -1
    result.history.append({"epoch": 0.0})
    result.rows_per_rank.append(1)
    assert FitResult().history == []
    assert FitResult().rows_per_rank == []


@pytest.mark.parametrize(
    "text", ['{"best_epoch": "last"}', '{"history": [1]}', '{"seconds": null}', "not JSON"]
)
def test_a_damaged_record_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        from_json(FitResult, text)
