"""One typed configuration: a TOML file plus overrides.

``load`` reads it, ``Config`` is the tree; each section is the business of one stage. Every error
names the field, what was expected and what was seen.
"""

from qarm.config.data import Gates, ItemSource, LogSource, Split
from qarm.config.learning import (
    Alignment,
    Codes,
    Encoder,
    Evaluation,
    Optimizer,
    Pairs,
    Ranker,
    Samples,
    Training,
)
from qarm.config.load import Config, External, fingerprint, load

__all__ = [
    "Alignment",
    "Codes",
    "Config",
    "Encoder",
    "Evaluation",
    "External",
    "Gates",
    "ItemSource",
    "Loader",
    "LogSource",
    "Optimizer",
    "Pairs",
    "Ranker",
    "Samples",
    "Split",
    "Training",
    "fingerprint",
    "load",
]
