"""The loop on one rank: schedule, clipping, stopping, resuming, the best weights."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
from contextlib import nullcontext, suppress
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from qarm.errors import ConfigError, TrainingError
from qarm.lake.tables import TableRef
from qarm.training import gradients, loop, step
from qarm.training.loop import fit
from qarm.training.settings import FitConfig
from qarm.training.step import clip_gradients, learning_rate_factor
from tests.training import ranks

SPEC = {"batch": 16, "dropout": 0.3}


def run(files, *, spec=SPEC, evaluate=None, **options):
    """Model and result of a short training."""
    model, optimizer, loader = ranks.make_training({"files": files, **spec})
    config = FitConfig(**{"epochs": 3, "seed": 4, **options})
    result = fit(model, ranks.point_loss, loader, optimizer, config, evaluate)
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
    config = FitConfig(monitor="auc", seed=4, **options)
    result = fit(model, ranks.point_loss, loader, optimizer, config, evaluate=scores)
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
    result = fit(model, ranks.point_loss, loader, optimizer, FitConfig())
    _, _, whole = ranks.make_training({"files": files, "batch": 144})
    loss, weight = ranks.point_loss(model, next(iter(whole.epoch(0))))
    assert float(weight) == 144
    assert result.history[0]["train_loss"] == pytest.approx((loss / weight).item(), abs=1e-12)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_stopped_run_resumes_to_the_same_weights(files, tmp_path, scheme):
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
        "config_hash": "c",
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
        run(files, **{**options, "config_hash": "d"})


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


def test_mistakes_are_named(files, caplog):
    with pytest.raises(ConfigError, match=r"chosen by 'auc', evaluation reports \['hr'\]"):
        run(files, evaluate=lambda: {"hr": 1.0}, monitor="auc")

    def nan_loss(model, batch):
        loss, weight = ranks.point_loss(model, batch)
        return loss * math.nan, weight

    model, optimizer, loader = ranks.make_training({"files": files, **SPEC})
    before = ranks.weights(model)
    with pytest.raises(TrainingError, match=r"not finite at epoch 0, step 0.*rank 0: loss sum nan"):
        fit(model, nan_loss, loader, optimizer, FitConfig())
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
    gradients.average_gradients(model)
    assert clip_gradients(model, 2.0) == pytest.approx(expected)
    assert clip_gradients(model, 5.0) == pytest.approx(2.0)
    assert clip_gradients(nn.Linear(1, 1), 1.0) == 0.0


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(every=st.integers(1, 7), stops=st.lists(st.integers(0, 26), min_size=1, max_size=3))
def test_stopped_anywhere_it_ends_the_same(files, tmp_path_factory, every, stops):
    """Any steps of the three epochs of nine, any distance of checkpoints, with dropout."""
    folder = str(tmp_path_factory.mktemp("stopped") / "run")
    options = {"checkpoint_folder": folder, "checkpoint_steps": every, "keep": 1}
    whole, expected = run(files)
    for stop in stops:
        model, optimizer, loader = ranks.make_training({"files": files, **SPEC})
        calls: list[int] = []

        def deadly(model, batch, stop=stop, calls=calls):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(0)
            return ranks.point_loss(model, batch)

        with suppress(KeyboardInterrupt):
            fit(model, deadly, loader, optimizer, FitConfig(epochs=3, seed=4, **options))
    model, result = run(files, **options)
    assert ranks.weights(model) == ranks.weights(whole)
    names = ("train_loss", "rows", "learning_rate")
    for one, other in zip(result.history, expected.history, strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]
    assert result.rows_per_rank == expected.rows_per_rank


def test_the_manifest_holds_the_position_of_training(files, tmp_path):
    facts = {"config_hash": "c", "tables": {"samples": TableRef("samples", "file:///s", 3)}}
    run(files, epochs=1, checkpoint_folder=str(tmp_path), checkpoint_steps=8, **facts)
    first, last = (
        json.loads((tmp_path / f"step-{step:010d}" / "manifest.json").read_text())
        for step in (8, 9)
    )
    assert first["config_hash"] == "c"
    assert first["tables"] == {"samples": {"name": "samples", "path": "file:///s", "version": 3}}
    assert (first["step"], first["epoch"]) == (8, 0)
    order = {"steps_per_epoch": 9, "shards": 1}
    assert first["reader"] == {"epoch": 0, "step": 8, "rows": [128], **order}
    assert last["reader"] == {"epoch": 1, "step": 0, "rows": [], **order}
    assert 0 < first["metrics"]["train_loss"] < 2
    assert last["metrics"]["rows"] == 144
    assert (first["is_best"], last["is_best"]) == (False, True)


def test_in_mid_epoch_another_order_of_rows_is_refused(files, tmp_path):
    options = {"epochs": 1, "checkpoint_folder": str(tmp_path), "checkpoint_steps": 8}
    run(files, **options)
    for path in (tmp_path / "step-0000000009").iterdir():
        path.unlink()
    with pytest.raises(TrainingError, match=r"step 8 of an epoch .*'shards': 1.*'shards': 2"):
        run(files, spec={**SPEC, "shards": 2}, **options)


class Tracking(ModuleType):
    """MLflow is optional and not installed here; these are the functions that the loop calls."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = ModuleSpec("mlflow", None)
        self.calls: list[tuple] = []
        self.away = False

    def start_run(self, run_id=None, run_name=None):
        self.calls.append(("start", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "r1"))

    def log_params(self, parameters):
        self.calls.append(("parameters", sorted(parameters)))

    def log_metrics(self, metrics, step):
        if self.away:
            raise ConnectionError("no route to the tracking server")
        self.calls.append(("metrics", step, sorted(metrics)[-1]))

    def end_run(self, status):
        self.calls.append(("end", status))


def test_mlflow_is_used_if_a_server_is_configured(files, tmp_path, monkeypatch, caplog):
    mlflow = Tracking()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    options = {"checkpoint_folder": str(tmp_path), "config_hash": "c"}
    run(files, epochs=1, **options)
    assert mlflow.calls == [], "no tracking URI is set"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")

    def interrupt() -> dict[str, float]:
        raise KeyboardInterrupt

    options["checkpoint_folder"] = str(tmp_path / "new")
    run(files, epochs=1, **options)
    with pytest.raises(KeyboardInterrupt):
        run(files, epochs=2, evaluate=interrupt, **options)
    epoch = ("metrics", 9, "train_loss")
    assert mlflow.calls == [
        *(("start", None), ("parameters", ["config_hash", "tables"]), epoch, ("end", "FINISHED")),
        *(("start", "r1"), ("end", "KILLED")),
    ]
    mlflow.away = True
    _, result = run(files, epochs=3, **options)
    assert result.epochs_done == 3
    assert "MLflow at http://tracking: no route to the tracking server" in caplog.text


def reported_steps(folder: str) -> list[int]:
    """Steps of the losses that TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder)
    events.Reload()
    return [event.step for event in events.Scalars("train_loss")]


def test_a_resumed_run_replaces_its_events(files, tmp_path):
    run(files, epochs=2, checkpoint_folder=str(tmp_path))
    shutil.rmtree(tmp_path / "step-0000000018")  # so that the second epoch comes twice
    run(files, epochs=3, checkpoint_folder=str(tmp_path))
    assert reported_steps(str(tmp_path / "events")) == [9, 18, 27]


def test_events_go_to_any_store(files):
    run(files, epochs=2, events_folder="memory://training/events")
    assert reported_steps("memory://training/events") == [9, 18]


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_bfloat16_is_for_devices_that_have_it(files, monkeypatch):
    """The device is injected: nothing else about the loop differs."""
    seen = []

    def loss(model, batch):
        seen.append(torch.is_autocast_enabled("cpu"))
        return ranks.point_loss(model, batch)

    def trained(**options):
        model, optimizer, loader = ranks.make_training({"files": files, **SPEC})
        fit(model, loss, loader, optimizer, FitConfig(**options))
        return ranks.weights(model)

    plain = trained()
    assert trained(mixed_precision=True) == plain
    assert not any(seen), "a CPU trains in the model's type"

    small = nn.Linear(2, 2)
    monkeypatch.setattr(step, "_has_bfloat16", lambda device: True)
    assert isinstance(step.autocast(small.double(), True), nullcontext), "float64 stays exact"
    assert isinstance(step.autocast(small.float(), False), nullcontext)
    wanted = step.autocast(small, True)
    assert (wanted.device, wanted.fast_dtype) == ("cuda", torch.bfloat16)
    monkeypatch.setattr(loop, "autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    seen.clear()
    trained(mixed_precision=True)
    assert all(seen)
    assert not torch.is_autocast_enabled("cpu")
