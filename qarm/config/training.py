"""Sections [loader] and [training]: how ranks read their table, and how they are run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section

Backend = Literal["auto", "local", "spark"]


class Optimizer(Section):
    """Optimiser and schedule, the same for both trainers."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW. Embedding tables are exempt."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up. Raise it if the loss jumps in the first steps."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or cosine decay to 0 at the last step."""
    gradient_clip: float = Field(0.0, ge=0)
    """Maximum norm of all gradients together; 0: no clipping."""


class Loader(Section):
    """How training tables are split into shards, and how ranks read them."""

    shards: int = Field(8, ge=1)
    """Number of canonical shards of a table, a multiple of training.ranks. Every step takes the
    same rows at any number of ranks that divides it. Halved until the table has that many row
    groups and the batch size is a multiple of it."""
    shuffle_rows: int = Field(65_536, ge=1)
    """Rows that are shuffled together, over all shards. The ranks together hold about twice as many
    in memory. Higher values mix rows better."""
    workers: int = Field(2, ge=1)
    """Row groups that each rank decodes in parallel. Raise it if input_wait_share of an epoch is
    above a tenth and cores are idle."""


class Training(Section):
    """How ranks are run."""

    ranks: int = Field(2, ge=1)
    """Number of Horovod ranks."""
    backend: Backend = "auto"
    """local: processes on this machine; a single rank does not need Horovod. spark: executors
    (horovod.spark.run). auto: spark on a cluster, else local."""
    checkpoint_steps: int = Field(1000, ge=0)
    """Steps between checkpoints; 0: at the end of epochs only."""
    restarts: int = Field(2, ge=0)
    """Maximum number of restarts from the latest checkpoint after a rank was lost (killed, its host
    gone, or stalled). An error that a rank raises ends the training at once."""
    stall_seconds: int = Field(1800, ge=1)
    """If a rank does not join a collective within this many seconds, training stops and names it.
    Must exceed the time that one rank works alone, such as writing the arrays of a large
    catalogue."""
    mixed_precision: bool = False
    """Train in bfloat16 on CUDA devices that support it; no effect elsewhere. Off by default
    because it has not been measured on such a device."""
