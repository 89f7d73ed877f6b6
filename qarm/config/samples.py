"""Section [samples]: ranking samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section


class Samples(Section):
    """Ranking samples."""

    negatives: Literal["auto", "observed", "sampled"] = "auto"
    """auto: observed where the log has events that are not positive, else sampled."""
    negatives_per_positive: int = Field(4, ge=1)
    """Sampled negatives a positive, from items already seen by then."""
    history_length: int = Field(50, ge=1)
    """Latest positives in the history (QARM: 50)."""
    train_positives: int = Field(0, ge=0)
    """Most positives of the train part, the latest kept; 0: all."""
    eval_positives: int = Field(0, ge=0)
    """Most positives each of valid and test, by hash of the user; 0: all."""
    rate_prior: float = Field(10.0, gt=0)
    """Pseudo-events of the smoothed rates."""
    seed: int = 0
    """Seed of negatives and of the rows' order."""
