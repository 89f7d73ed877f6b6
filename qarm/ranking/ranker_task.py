"""What the stage gives to the ranks that train rankers, and what they return."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from qarm.config.ranker import Ranker
from qarm.config.training import Loader
from qarm.ranking.item_table import ItemSource
from qarm.training.settings import FitConfig

#: Fields of a trial that depend on the machine's speed: shown, but not part of a result.
_TIMINGS = ("seconds", "rows_per_second", "input_wait_share")


@dataclass(frozen=True, kw_only=True)
class RankerTask:
    """Trainings of all variants, seeds and grid points."""

    ranker: Ranker
    loader: Loader
    fit: FitConfig
    """Checkpoints, events and precision; each trial has a folder of its own in these."""
    labels: list[str]
    """Names of the heads, the positive label first."""
    files: dict[str, list[str]]
    """Part -> live files of ranking_samples."""
    history_length: int
    user_rows: int
    """One more than the largest user_idx."""
    dense_mean: list[float]
    """Mean of each dense feature (``inputs.DENSE``) in the training part."""
    dense_std: list[float]
    """Its standard deviation."""
    items: ItemSource
    codebook: str | None
    """URI of the codebook that code tables start from."""
    scores: str
    """URI of the folder for the scores of valid and test."""
    models: str
    """URI of the folder for the models."""


@dataclass(kw_only=True)
class Trial:
    """One training of one variant."""

    variant: str
    seed: int
    id_dropout: float
    auc: float
    """AUC on the validation part at the best epoch."""
    epoch: int
    """Best epoch, from 1."""
    epochs: list[float]
    """AUC after each epoch."""
    seconds: float
    rows_per_second: int
    input_wait_share: float
    chosen: bool = False
    """Whether it is the best of its variant and seed."""

    def repeatable(self) -> dict[str, Any]:
        """The record without what differs between equal runs."""
        return {name: value for name, value in asdict(self).items() if name not in _TIMINGS}


@dataclass(frozen=True)
class SavedModel:
    """A model file."""

    uri: str
    """Its folder."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RankerResult:
    """What became of a ``RankerTask``."""

    trials: list[Trial]
    models: dict[str, SavedModel]
    """variant/seed -> the chosen model."""
    rows_per_rank: list[int]
    """Training rows that each rank read in the last epoch."""
