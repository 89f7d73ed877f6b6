"""The configuration of the training loop: one object for ``qarm.training.loop.fit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qarm.config.training import Training
from qarm.lake.tables import TableRef
from qarm.training.step import Schedule


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How ``fit`` trains, stops, saves and resumes.

    A stage fills in what belongs to the run (``run_config``), the trainer the rest.
    """

    epochs: int = 1
    """Maximum number of epochs."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: Schedule = "constant"
    """Learning rate after the warm-up: constant, or cosine down to 0 at the last step."""
    gradient_clip: float = 0.0
    """Maximum norm of all gradients together; 0: no limit."""
    seed: int = 0
    """Seed of dropout and other randomness within steps."""
    monitor: str | None = None
    """Metric that chooses the best epoch, larger is better; None: the last epoch is the best."""
    patience: int | None = None
    """Epochs without improvement before training stops; None: never."""
    checkpoint_folder: str | None = None
    """URI. Training resumes from its latest checkpoint; None: nothing is saved."""
    events_folder: str | None = None
    """URI for TensorBoard; None: "events" in the checkpoint folder, if there is one."""
    checkpoint_steps: int = 0
    """Steps between checkpoints; 0: at the end of epochs only."""
    keep: int = 2
    """Number of latest checkpoints kept beside the best one."""
    mixed_precision: bool = False
    """Train in bfloat16 on devices that have it (``step.autocast``)."""
    config_hash: str | None = None
    """Identifies the run. Checkpoints of another one are refused."""
    tables: dict[str, TableRef] = field(default_factory=dict)
    """Table versions that the run reads, recorded in checkpoints."""

    @property
    def manifest(self) -> dict[str, Any]:
        """The run's facts, as checkpoints and trackers record them."""
        tables = {name: ref.as_dict() for name, ref in sorted(self.tables.items())}
        return {"config_hash": self.config_hash, "tables": tables}


def run_config(
    training: Training,
    *,
    run_id: str,
    tables: Mapping[str, TableRef],
    checkpoints: str,
    events: str,
) -> FitConfig:
    """What both trainers' stages know of a run.

    Args:
        training: section [training].
        run_id: identifies the run; equal runs have the same one.
        tables: versions of the tables that it reads.
        checkpoints, events: URIs of folders.
    """
    return FitConfig(
        checkpoint_folder=checkpoints,
        events_folder=events,
        checkpoint_steps=training.checkpoint_steps,
        mixed_precision=training.mixed_precision,
        config_hash=run_id,
        tables=dict(tables),
    )
