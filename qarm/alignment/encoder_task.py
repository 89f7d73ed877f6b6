"""What the stage gives to the ranks that train the encoder, and what they return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qarm.config.alignment import Alignment
from qarm.config.encoder import Encoder
from qarm.config.training import Loader
from qarm.training.settings import FitConfig


@dataclass(frozen=True, kw_only=True)
class ItemFiles:
    """Where the items' features, attributes and contents come from."""

    pair_files: list[str]
    """Live files of alignment_pairs."""
    feature_files: list[str]
    """Live files of item_features."""
    item_files: list[str]
    """Live files of items."""
    backbones: dict[str, str]
    """Modality -> backbone whose rows of item_features are taken."""
    feature_dims: dict[str, int]
    """Modality -> width of its features."""
    buckets: int
    """Rows of the attribute table; 0: no attributes."""
    contents: list[str]
    """Modalities (text, image) whose raw content is kept for end-to-end training."""


@dataclass(frozen=True, kw_only=True)
class EncoderTask:
    """One training of the item encoder."""

    encoder: Encoder
    alignment: Alignment
    loader: Loader
    fit: FitConfig
    """Checkpoints, events and precision; the trainer adds what section [alignment] says."""
    train_files: list[str]
    """Live files of alignment_pairs, training part."""
    valid_files: list[str]
    """Live files of alignment_pairs, held-out part."""
    items: ItemFiles
    artifact_uri: str
    """Folder for the encoder."""


@dataclass(frozen=True, kw_only=True)
class EncoderResult:
    """What became of an ``EncoderTask``."""

    artifact: dict[str, Any]
    """Description of the encoder, as ``encoders.artifact.save`` returns it."""
    history: list[dict[str, float]]
    """One record per epoch."""
    start: dict[str, float]
    """Metrics before training."""
    best_epoch: int
    best_metrics: dict[str, float]
    rows_per_rank: list[int]
    """Pairs that each rank read in the last epoch."""
    items: int
    """Number of items in the pairs."""
    valid_pairs: int
    """Held-out pairs that each epoch was evaluated on."""
    temperature: float
    """Learned temperature of the loss."""
    seconds: float
    """Time in training epochs."""
