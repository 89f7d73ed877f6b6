"""Section [alignment]: contrastive training of the encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section
from qarm.config.training import Optimizer


class Alignment(Section):
    """Contrastive alignment of the encoder with behaviour."""

    sources: dict[str, float] = {"u2i": 1.0, "swing": 1.0}
    """Pair source (u2i, swing, itemcf; user: pairs of your own) -> its share of the loss (balanced
    by weight). Where external item_pairs have none of them, the sources that they have are used."""
    finetune: list[Literal["text", "image"]] = []
    """Backbones trained end to end; others are frozen and their features cached."""
    backbone_learning_rate: float = Field(2e-5, gt=0)
    """Learning rate of fine-tuned backbones."""
    epochs: int = Field(4, ge=1)
    """Most epochs; the best on held-out pairs is kept."""
    patience: int = Field(2, ge=1)
    """Epochs without improvement before stopping."""
    batch_size: int = Field(1024, ge=2)
    """Pairs a step over all ranks."""
    valid_share: float = Field(0.05, ge=0, lt=1)
    """Share of trigger-target pairs held out (by hash) for choosing the epoch."""
    valid_pairs: int = Field(20_000, ge=1)
    """Most held-out pairs that an epoch is judged on."""
    valid_candidates: int = Field(200_000, ge=1)
    """Most items among which their targets are looked for."""
    temperature: float = Field(0.35, gt=0)
    """Start of the learnable temperature."""
    temperature_min: float = Field(0.3, gt=0)
    """Lower clamp. On small catalogues a low one sharpens the loss on the known pairs until new
    ones are lost; millions of items need a lower one, such as 0.05."""
    temperature_max: float = Field(0.5, gt=0)
    """Upper clamp."""
    logq: bool = True
    """Popularity (logQ) correction of in-batch negatives."""
    mask_known_pairs: bool = True
    """Other known partners of the trigger are no negatives."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-2, weight_decay=1e-4)
    seed: int = 0
    """Seed of initialisation and order."""
