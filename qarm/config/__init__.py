"""One typed configuration: a TOML file plus overrides.

``load`` reads it into ``Config``, one module per section. Every error names the field, what was
expected and what was seen.
"""

from qarm.config.alignment import Alignment
from qarm.config.codes import Codes
from qarm.config.encoder import Encoder
from qarm.config.evaluation import Evaluation
from qarm.config.external import External
from qarm.config.gates import Gates
from qarm.config.items import ItemSource
from qarm.config.load import Config, fingerprint, load
from qarm.config.log import LogSource
from qarm.config.pairs import Pairs
from qarm.config.ranker import Ranker
from qarm.config.samples import Samples
from qarm.config.split import Split
from qarm.config.training import Loader, Optimizer, Training

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
