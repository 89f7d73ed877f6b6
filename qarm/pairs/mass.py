"""What the caps of a miner cost: the share of score mass lost, on a sample of triggers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.pairs.mined import Mined

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: One of this many triggers is sampled.
SAMPLE = 100
#: Replaces the cap on a user's events: a list of this length has 24 MB.
MOST_EVENTS = 1_000_000
#: Replaces Swing's cap on an item's users; cost grows with its square.
MOST_USERS = 4000
#: Replaces top_k: all pairs of a trigger.
ALL_PAIRS = 2**31 - 1


def sample_triggers(events: DataFrame, sample: int = SAMPLE) -> NDArray[Any]:
    """int64[n], ascending: the items of ``events`` with hash(item) mod ``sample`` = 0."""
    from pyspark.sql import functions as F

    chosen = F.pmod(F.xxhash64(F.col("item_idx").cast("bigint")), F.lit(sample)) == 0
    items = events.where(chosen).select(F.col("item_idx").cast("bigint")).distinct()
    return np.sort(items.toArrow().column(0).to_numpy())


def share_of_mass_lost(
    triggers: NDArray[Any], mine: Callable[[bool, NDArray[Any]], Mined]
) -> float | None:
    """1 - mass with caps / mass without, mass being the sum of all scores of ``triggers``.

    Negative if caps make scores larger: a normalised score is divided by the cut weights.

    Args:
        triggers: int64[n], as of ``sample_triggers``.
        mine: (whether with caps, triggers) -> all their pairs.

    Returns:
        the share; None if no sampled trigger has a pair.
    """
    if not len(triggers):
        return None
    capped, whole = (_mass(mine(caps, triggers)) for caps in (True, False))
    return 1.0 - capped / whole if whole else None


def _mass(mined: Mined) -> float:
    from pyspark.sql import functions as F

    row = mined.pairs.agg(F.sum("score")).first()
    return float((row and row[0]) or 0.0)
