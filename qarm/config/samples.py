"""Section [samples]: the samples that rankers are trained and judged on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section


class Samples(Section):
    """Samples of the ranker: events, negatives, history."""

    negatives: Literal["auto", "observed", "sampled"] = "auto"
    """Where negatives come from. observed: the log's events that are not positive. sampled: items
    drawn at random. auto: observed if the log has such events, else sampled."""
    negatives_per_positive: int = Field(4, ge=1)
    """Sampled negatives per positive, drawn from the items seen in the log before it. The table
    grows in proportion. No effect on observed negatives."""
    history_length: int = Field(50, ge=1)
    """Positives of the user, the latest ones, that a sample carries as history; 50 as in the QARM
    paper. Memory and time of training grow with it."""
    train_positives: int = Field(0, ge=0)
    """Largest number of positives in the train part; the latest are kept. 0: all. Lower it to try a
    configuration out quickly."""
    eval_positives: int = Field(0, ge=0)
    """Largest number of positives in valid and in test, each; whole users are kept, by a hash of
    their id. 0: all. Lower it where scoring takes too long; intervals become wider."""
    seed: int = 0
    """Seed of sampled negatives, of the users kept, and of the order of rows."""
