"""The loop on one rank: schedule, clipping, stopping, resuming, the best weights."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from qarm.errors import ConfigError, TrainingError
from qarm.training import collectives
from qarm.training.loop import fit
from qarm.training.step import clip_gradients, learning_rate_factor
from tests.training import ranks

SPEC = {"batch": 16, "dropout": 0.3}


def run(files, *, spec=SPEC, **options):
    """Model and result of a short training."""
    model, optimizer, loader = ranks.make_training({"files": files, **spec})
    options.setdefault("epochs", 3)
    options.setdefault("seed", 4)
    result = fit(model, ranks.point_loss, loader, optimizer=optimizer, **options)
    return model, result


class Scores:
    """An evaluation that reports the given scores, and keeps the weights it saw."""

    def __init__(self, *scores: float, stop_after: int | None = None) -> None:
        self.scores = list(scores)
        self.stop_after = stop_after
        self.seen: list[list[float]] = []
        self.model: nn.Module | None = None

    def __call__(self) -> dict[str, float]:
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        if self.model is not None:
            self.seen.append(ranks.weights(self.model))
            assert not self.model.training
        return {"auc": self.scores.pop(0)}


def run_scored(files, scores: Scores, **options):
    """``run`` with the model given to the evaluation."""
    model, optimizer, loader = ranks.make_training({"files": files, **SPEC})
    scores.model = model
    result = fit(
        model,
        ranks.point_loss,
        loader,
        optimizer=optimizer,
        evaluate=scores,
        monitor="auc",
        seed=4,
        **options,
    )
    return model, result


def test_training_lowers_the_loss_and_reports_what_it_did(files):
    _, result = run(files, epochs=6, spec={"batch": 16})
    losses = [record["train_loss"] for record in result.history]
    assert losses[-1] < losses[0]
    assert result.epochs_done == 6
    assert result.rows_per_rank == [144]
    assert result.history[0]["rows"] == 144
    assert 0 < result.input_wait_share < 1
    assert result.best_epoch == 5


def test_padding_does_not_count(files):
    """144 rows in batches of 100 (56 rows of padding): the mean loss is that of 144 rows."""
    model, optimizer, loader = ranks.make_training({"files": files, "batch": 100})
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    result = fit(model, ranks.point_loss, loader, epochs=1, optimizer=optimizer)
    _, _, whole = ranks.make_training({"files": files, "batch": 144})
    loss, weight = ranks.point_loss(model, next(iter(whole.epoch(0))))
    assert float(weight) == 144
    assert result.history[0]["train_loss"] == pytest.approx((loss / weight).item(), abs=1e-12)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_stopped_run_goes_on_to_the_same_weights(files, tmp_path, scheme):
    whole, expected = run(files, epochs=4, schedule="cosine", warmup_steps=5)
    folder = f"{scheme}{tmp_path}/run"

    def stop_in(epoch: int):
        calls: list[int] = []

        def evaluate() -> dict[str, float]:
            calls.append(0)
            if len(calls) == epoch:
                raise KeyboardInterrupt
            return {}

        return evaluate

    options = {
        "epochs": 4,
        "schedule": "cosine",
        "warmup_steps": 5,
        "checkpoint_folder": folder,
        "manifest": {"config_hash": "c"},
    }
    for epoch in (2, 2):  # stopped twice
        with pytest.raises(KeyboardInterrupt):
            run(files, evaluate=stop_in(epoch), **options)
    model, result = run(files, **options)
    assert result.resumed_from == 2
    assert ranks.weights(model) == ranks.weights(whole)
    losses = [[record["train_loss"] for record in r.history] for r in (expected, result)]
    assert losses[0] == losses[1]

    # Done is done: a rerun only restores.
    again, result = run(files, **options)
    assert result.resumed_from == result.epochs_done == 4
    assert ranks.weights(again) == ranks.weights(whole)
    with pytest.raises(TrainingError, match="was made with the configuration c, this run has d"):
        run(files, **{**options, "manifest": {"config_hash": "d"}})
    _, fresh = run(files, **{**options, "manifest": {"config_hash": "d"}, "resume": False})
    assert fresh.resumed_from == 0


@pytest.mark.parametrize("saved", [False, True])
def test_stops_without_improvement_and_ends_with_the_best_weights(files, tmp_path, saved):
    folder = str(tmp_path / "run") if saved else None
    scores = Scores(0.5, 0.7, 0.6, 0.65, 0.9)
    options = {"epochs": 9, "patience": 2, "checkpoint_folder": folder, "keep": 1}
    model, result = run_scored(files, scores, **options)
    assert result.epochs_done == 4
    assert (result.best_epoch, result.best_metrics) == (1, {"auc": 0.7})
    assert ranks.weights(model) == scores.seen[1]
    if saved:
        again, result = run_scored(files, Scores(), **options)
        assert result.epochs_done == 4
        assert ranks.weights(again) == scores.seen[1]


def test_small_is_better_when_said_so(files):
    scores = Scores(0.5, 0.2, 0.7)
    model, result = run_scored(files, scores, epochs=3, mode="min")
    assert result.best_epoch == 1
    assert ranks.weights(model) == scores.seen[1]


def test_events_are_written_for_tensorboard(files, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(files, checkpoint_folder=str(tmp_path))
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert len(events.Scalars("train_loss")) == 3


def test_mistakes_are_named(files, caplog):
    with pytest.raises(ConfigError, match=r"judged by 'auc', and evaluation reports \['hr'\]"):
        run(files, evaluate=lambda: {"hr": 1.0}, monitor="auc")

    def nan_loss(model, batch):
        loss, weight = ranks.point_loss(model, batch)
        return loss * math.nan, weight

    model, optimizer, loader = ranks.make_training({"files": files, **SPEC})
    before = ranks.weights(model)
    with pytest.raises(TrainingError, match=r"not finite at epoch 0, step 0.*rank 0: loss sum nan"):
        fit(model, nan_loss, loader, epochs=1, optimizer=optimizer)
    assert ranks.weights(model) == before


def test_each_epoch_is_logged(files, caplog):
    with caplog.at_level(logging.INFO):
        run(files, epochs=1, evaluate=lambda: {"auc": 0.75})
    assert "epoch 1: loss" in caplog.text
    assert "auc 0.7500" in caplog.text


def test_learning_rate_schedule():
    def rates(schedule):
        return [learning_rate_factor(s, 3, 11, schedule) for s in range(11)]

    assert rates("constant") == [0.25, 0.5, 0.75] + [1.0] * 8
    cosine = rates("cosine")
    assert cosine[:4] == [0.25, 0.5, 0.75, 1.0]
    assert cosine[7] == pytest.approx(0.5)
    assert cosine[10] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_clipping_takes_dense_and_sparse_gradients():
    model = ranks.Net()
    model.words(torch.tensor([1, 1, 2])).sum().backward()
    model.hidden.weight.sum().backward()
    # Rows 1 and 2 of the table have gradients 2 and 1 (four columns), the layer thirty ones.
    expected = math.sqrt(4 * (4 + 1) + 30)
    collectives.average_gradients(model)
    assert clip_gradients(model, 2.0) == pytest.approx(expected)
    assert clip_gradients(model, 5.0) == pytest.approx(2.0)
    assert clip_gradients(nn.Linear(1, 1), 1.0) == 0.0
