"""Section [loader] and [training]: how ranks read their table and how they are run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section


class Optimizer(Section):
    """Optimiser and schedule, the same for both trainers."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay; embedding tables get none."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule after the warm-up."""
    gradient_clip: float = Field(0.0, ge=0)
    """Largest gradient norm; 0: no clipping."""


class Loader(Section):
    """How training tables are cut, and read by the ranks."""

    shards: int = Field(8, ge=1)
    """Canonical shards of a table, a multiple of training.ranks: a step holds the same rows at any
    number of ranks that divides it. Halved for a table with fewer row groups, and for a batch that
    is no multiple of it."""
    shuffle_rows: int = Field(65_536, ge=1)
    """Rows shuffled together, over all shards; the ranks together hold about twice that."""
    workers: int = Field(2, ge=1)
    """Row groups that a rank decodes at once."""


class Training(Section):
    """How ranks are run."""

    ranks: int = Field(2, ge=1)
    """Horovod ranks."""
    backend: Literal["auto", "local", "horovodrun", "spark"] = "auto"
    """auto: horovodrun on a local master, Spark executors (horovod.spark.run) otherwise;
    local: one process without Horovod."""
    checkpoint_steps: int = Field(1000, ge=0)
    """A checkpoint each so many steps; 0: at the end of epochs only."""
    keep_checkpoints: int = Field(2, ge=1)
    """Latest checkpoints kept beside the best."""
    restarts: int = Field(2, ge=0)
    """How often the ranks are started again, from the latest checkpoint, when one of them was lost
    (killed, its host gone, or stalled); an error that a rank raises ends the training at once."""
    stall_seconds: int = Field(1800, ge=1)
    """Ranks that wait so long for one that takes no part give up, and it is named. Above the time
    that one of them needs alone, such as for mapping a large catalogue."""
    mixed_precision: bool = False
    """Train in bfloat16 on CUDA devices that have it; nothing changes elsewhere. Not yet measured
    on one, so it has to be asked for."""
