"""Section [alignment]: contrastive training of the encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section
from qarm.config.training import Optimizer

#: Upper bound of the temperature of the loss.
TEMPERATURE_MAX = 0.5


class Alignment(Section):
    """Contrastive alignment of the encoder with behaviour."""

    sources: dict[str, float] = {"u2i": 1.0, "swing": 1.0}
    """Pair source (u2i, swing, itemcf; user: your own pairs) -> its share of the loss, reached by
    row weights. If your own item_pairs have none of these sources, all sources of that table are
    used."""
    finetune: list[Literal["text", "image"]] = []
    """Backbones that are trained end to end. Others are frozen and their features are cached, which
    is much faster."""
    backbone_learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate of fine-tuned backbones."""
    epochs: int = Field(4, ge=1)
    """Maximum number of epochs. The best epoch on held-out pairs is kept."""
    patience: int = Field(2, ge=1)
    """Epochs without improvement before training stops."""
    batch_size: int = Field(1024, ge=2)
    """Pairs per step over all ranks. Larger batches have more negatives."""
    valid_share: float = Field(0.05, ge=0, lt=1)
    """Share of trigger-target pairs that are held out, by hash, to choose the epoch; 0: the last
    epoch is kept."""
    temperature: float = Field(0.35, gt=0, le=TEMPERATURE_MAX)
    """Initial value of the learned temperature of the loss, which stays below 0.5."""
    temperature_min: float = Field(0.3, gt=0)
    """Lower bound of the temperature. On small catalogues a low value overfits the known pairs;
    catalogues of millions of items need a lower bound, such as 0.05."""
    logq: bool = True
    """Correct in-batch negatives for the popularity of items (logQ correction)."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-2, weight_decay=1e-4)
    seed: int = 0
    """Seed of initialisation, held-out pairs and order."""
