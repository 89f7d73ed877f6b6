"""Curves of a training: TensorBoard's files, and a stand-in for MLflow."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from qarm.training.trackers import MLFLOW_URI, Trackers


class Server(ModuleType):
    """MLflow is optional; these are the functions that are called. ``broken`` fail."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = ModuleSpec("mlflow", None)
        self.calls: list[tuple] = []
        self.broken: set[str] = set()

    def _call(self, name: str, *arguments) -> None:
        if name in self.broken:
            raise ConnectionError(f"no route for {name}")
        self.calls.append((name, *arguments))

    def start_run(self, run_id, run_name):
        self._call("start_run", run_id, run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "r1"))

    def log_params(self, parameters):
        self._call("log_params", parameters)

    def log_metrics(self, metrics, step):
        self._call("log_metrics", metrics, step)

    def end_run(self, status):
        self._call("end_run", status)


@pytest.fixture
def mlflow(monkeypatch) -> Server:
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", server)
    monkeypatch.setenv(MLFLOW_URI, "http://tracking")
    return server


def scalars(folder: str, name: str) -> list[tuple[int, float]]:
    """(step, value) that TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder)
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_without_a_folder_nothing_is_tracked(mlflow) -> None:
    trackers = Trackers(None, state={"mlflow_run": "r0"})
    trackers.write({"loss": 1.0}, 1)
    trackers.close(finished=True)
    assert mlflow.calls == []
    assert trackers.state == {"mlflow_run": "r0"}, "kept for the checkpoint"


def test_events_of_later_steps_are_hidden(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(MLFLOW_URI, raising=False)
    folder = str(tmp_path)
    killed = Trackers(folder)
    for step in (10, 20, 30):
        killed.write({"loss": step / 8}, step)
    killed.close(finished=False)
    resumed = Trackers(folder, step=20)
    resumed.write({"loss": 0.5}, 30)
    resumed.close(finished=True)
    assert scalars(folder, "loss") == [(10, 1.25), (20, 2.5), (30, 0.5)]


def test_a_run_of_mlflow(mlflow, tmp_path) -> None:
    folder = f"{tmp_path}/events/"
    trackers = Trackers(folder, parameters={"rate": 0.5, "ranks": 2})
    assert trackers.state == {"mlflow_run": "r1"}
    trackers.write({"loss": 1.5}, 7)
    trackers.close(finished=True)
    assert mlflow.calls == [
        ("start_run", None, f"{tmp_path}/events"),
        ("log_params", {"rate": "0.5", "ranks": "2"}),
        ("log_metrics", {"loss": 1.5}, 7),
        ("end_run", "FINISHED"),
    ]


def test_a_resumed_run_is_continued(mlflow, tmp_path) -> None:
    state = {"mlflow_run": "r7"}
    trackers = Trackers(str(tmp_path), state=state, parameters={"rate": 0.5})
    trackers.close(finished=False)
    assert mlflow.calls == [("start_run", "r7", None), ("end_run", "KILLED")]
    trackers.state["mlflow_run"] = "changed"
    assert state == {"mlflow_run": "r7"}, "the checkpoint's own state is not changed"


@pytest.mark.parametrize("broken", ["start_run", "log_params", "log_metrics", "end_run"])
def test_a_server_that_fails_does_not_stop_the_training(mlflow, tmp_path, caplog, broken) -> None:
    mlflow.broken = {broken}
    trackers = Trackers(str(tmp_path))
    trackers.write({"loss": 1.0}, 1)
    mlflow.broken = set() if broken != "end_run" else {broken}
    trackers.write({"loss": 2.0}, 2)
    trackers.close(finished=True)
    assert f"MLflow at http://tracking: no route for {broken}; not tracked there" in caplog.text
    assert scalars(str(tmp_path), "loss") == [(1, 1.0), (2, 2.0)]
    if broken != "end_run":
        called = [name for name, *_ in mlflow.calls]
        assert "log_metrics" not in called, "it is not tried again after it has failed"
