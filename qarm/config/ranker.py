"""Section [ranker]: variants of the ranker and their training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section
from qarm.config.training import Optimizer

Variant = Literal["base", "vector", "vq", "rq", "vq_rq"]


class Ranker(Section):
    """The ranker: variants, size of the model, training."""

    variants: list[Variant] = ["base", "vector", "vq", "rq", "vq_rq"]
    """Models to train and compare, by the content that an item has beside its id. base: none;
    vector: the aligned vector, frozen; vq, rq: an embedding of its VQ or RQ codes, trained; vq_rq:
    both."""
    seeds: list[int] = [0]
    """Each variant is trained once per seed. Several seeds show the spread of the figures."""
    id_dropout: list[float] = [0.0]
    """Probabilities to try of dropping an item's id embedding during training, from 0 (never) to 1
    (ids are not used). Each variant is trained with each of them; the one with the best validation
    AUC is kept. Values above 0 help items that have few events."""
    epochs: int = Field(3, ge=1)
    """Largest number of epochs. Training stops after the first epoch without a better validation
    AUC; the best epoch is kept."""
    batch_size: int = Field(2048, ge=2)
    """Samples per step, over all ranks. Scoring takes four times as many."""
    id_dimensions: int = Field(16, ge=1)
    """Dimensions of user and item id embeddings."""
    max_table_rows: int = Field(1_000_000, ge=16)
    """Largest number of rows of an embedding table of users, of items or of code prefixes. Larger
    vocabularies are hashed into it. A row takes 12 bytes per dimension with the optimiser's
    state."""
    use_user_id: bool = True
    """Whether the embedding of the user's id is an input. Set it to false to judge users who have
    no training events by their history alone."""
    code_start: Literal["content", "random", "shuffled"] = "content"
    """Initial rows of the code tables. content: centroids and anchors' vectors. The others are
    controls that show whether the geometry of the codes matters. random: noise of the same norms;
    shuffled: the same rows in random order."""
    hidden: list[int] = [128, 64]
    """Widths of the layers shared by all labels."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the shared layers. Raise it if the validation AUC falls after the first epoch."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3, weight_decay=1e-5)
