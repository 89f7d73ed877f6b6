"""A training's curves: always to TensorBoard, to MLflow if it is installed and configured."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

MLFLOW_URI = "MLFLOW_TRACKING_URI"
"""Environment variable (MLflow's own): without it nothing is sent to MLflow."""

_State = dict[str, str]


class Trackers:
    """Writes each epoch's numbers; does nothing without a folder.

    Args:
        folder: URI for TensorBoard's event files; None: this process tracks nothing.
        step: steps done; events of later steps, written before the run was killed, are hidden.
        state: ``state`` of the run that was killed, so that the same MLflow run is continued.
        parameters: parameters for MLflow.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        step: int = 0,
        state: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.state: _State = dict(state or {})
        self._events: Any = None
        self._mlflow: Any = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(folder, purge_step=step + 1)
        if os.environ.get(MLFLOW_URI) and importlib.util.find_spec("mlflow"):
            self._start_mlflow(folder, parameters or {})

    def _start_mlflow(self, folder: str, parameters: Mapping[str, Any]) -> None:
        import mlflow

        try:
            known = self.state.get("mlflow_run")
            name = None if known else folder.rstrip("/")
            run = mlflow.start_run(run_id=known, run_name=name)
            self.state["mlflow_run"] = run.info.run_id
            if not known:
                mlflow.log_params({k: str(v) for k, v in parameters.items()})
            self._mlflow = mlflow
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        # Training continues if the tracking server cannot be reached.
        logger.warning("MLflow at %s: %s; not tracked there", os.environ[MLFLOW_URI], error)
        self._mlflow = None

    def write(self, record: Mapping[str, float], step: int) -> None:
        """Add an epoch's numbers."""
        if self._events is not None:
            for name, value in record.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()
        if self._mlflow is not None:
            try:
                self._mlflow.log_metrics(dict(record), step=step)
            except Exception as error:
                self._give_up(error)

    def close(self, finished: bool) -> None:
        """End tracking; ``finished``: the training was not interrupted."""
        if self._events is not None:
            self._events.close()
        if self._mlflow is not None:
            try:
                self._mlflow.end_run("FINISHED" if finished else "KILLED")
            except Exception as error:
                self._give_up(error)
