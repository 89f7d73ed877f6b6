"""Section [ranker]: variants of the ranker and their training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section
from qarm.config.training import Optimizer

Variant = Literal["base", "vector", "vq", "rq", "vq_rq"]


class Ranker(Section):
    """The ranker."""

    variants: list[Variant] = ["base", "vector", "vq", "rq", "vq_rq"]
    """Uses of content: none, frozen aligned vector, VQ codes, RQ codes, both."""
    seeds: list[int] = [0]
    """One training of each variant a seed."""
    id_dropout: list[float] = [0.0]
    """Grid of the chance to drop an item's id embedding; the best on validation is kept; every
    variant gets the same grid."""
    epochs: int = Field(3, ge=1)
    """Most epochs; the best on validation is kept."""
    patience: int = Field(1, ge=1)
    """Epochs without improvement before stopping."""
    batch_size: int = Field(2048, ge=2)
    """Samples a step over all ranks."""
    id_dimensions: int = Field(16, ge=1)
    """Width of user and item id embeddings."""
    item_buckets: int = Field(1_000_000, ge=16)
    """Most rows of the item-id table; larger catalogues are hashed into it."""
    user_buckets: int = Field(1_000_000, ge=16)
    """Most rows of the user-id table."""
    use_user_id: bool = True
    """Whether the user's id embedding is an input."""
    content_dimensions: int = Field(32, ge=1)
    """Width of vector or codes after their linear layer."""
    code_start: Literal["content", "random", "shuffled"] = "content"
    """Start of the code tables: centroids and anchors' vectors, noise, or these rows shuffled."""
    code_tables: Literal["prefix", "isolated"] = "prefix"
    """rq: one table of hashed prefixes (c1), (c1,c2), ..., or one table a level."""
    code_buckets: int = Field(1_000_000, ge=16)
    """Most rows of the prefix table."""
    code_scale: float = Field(4.0, gt=0)
    """Factor on aligned vectors, centroids and anchors at the start."""
    code_learning_rate: float = Field(0.1, ge=0)
    """Learning rate of code tables, as a share of the optimiser's."""
    cross_features: bool = False
    """Target-aware counts: history items that share c1 or (c1,c2) with the target, VQ overlap."""
    hidden: list[int] = [128, 64]
    """Widths of the shared layers."""
    cross_layers: int = Field(2, ge=0)
    """Layers of the cross network (DCN v2)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the shared layers."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3, weight_decay=1e-5)
    predict_batch_size: int = Field(8192, ge=1)
    """Samples a step when scoring."""
