"""Slices of held-out samples and of the catalogue, by which figures are reported.

Slices overlap (cold is part of lt5, which is part of tail). Each row carries its slices as bits of
one integer, so that one pass over the rows counts all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: Items with fewer training events than this are rare.
TAIL = 20
#: Items with fewer training events than this are very rare.
RARE = 5
#: Slice of samples -> meaning; the order is that of the bits.
SAMPLE_SLICES: dict[str, str] = {
    "all": "every sample",
    "new": "the user had no earlier event with the target",
    "repeat": "the user had an earlier event with the target",
    "cold": "the target has no training event",
    "lt5": f"the target has fewer than {RARE} training events (includes cold)",
    "tail": f"the target has fewer than {TAIL} training events (includes lt5)",
    "torso": "the target is neither in tail nor in head",
    "head": "the target is in the top tenth of items by training events",
}
#: Slice of items -> meaning; the order is that of the bits.
ITEM_SLICES: dict[str, str] = {
    "all": "every item that has a code",
    "known": "at least one training event",
    "later": "events in the valid and test parts only",
    "never": "no event",
    "lt5": f"fewer than {RARE} training events",
    "tail": f"fewer than {TAIL} training events (includes lt5)",
    "torso": "neither in tail nor in head",
    "head": "the top tenth of items by training events",
}
#: Column with the bits of ``ITEM_SLICES``.
BITS = "slices"


def head_threshold(training_events: DataFrame) -> int:
    """Number of training events from which an item is in the top tenth ("head"), at least ``TAIL``.

    The top tenth is taken among items with a training event; ties at its edge are included. If even
    the top tenth has fewer than ``TAIL`` events, its items stay in the tail.

    Args:
        training_events: one row per training event, with item_idx.
    """
    from pyspark.sql import functions as F

    counts = training_events.groupBy("item_idx").count()
    edge = F.expr("percentile_disc(0.1) WITHIN GROUP (ORDER BY count DESC)")
    row = counts.agg(edge.alias("edge")).first()
    assert row is not None
    return max(TAIL, int(row["edge"] or 0))


def sample_bits(head: int) -> Column:
    """Bits of ``SAMPLE_SLICES`` for a row of predictions.

    Args:
        head: see ``head_threshold``.
    """
    from pyspark.sql import functions as F

    events = F.col("item_train_events")
    conditions = {
        "all": F.lit(True),
        "new": ~F.col("is_repeat"),
        "repeat": F.col("is_repeat"),
        "cold": events == 0,
        **_by_popularity(events, head),
    }
    return _as_bits(conditions[name] for name in SAMPLE_SLICES)


def with_item_slices(
    items: DataFrame, event_splits: DataFrame | None, training_parts: Sequence[str]
) -> DataFrame:
    """``items`` with the column ``slices``: bits of ``ITEM_SLICES``.

    Args:
        items: with item_idx, one row per item.
        event_splits: parts of all events; None: there is no log, and every item is only in ``all``.
        training_parts: the parts whose events count as training.
    """
    from pyspark.sql import functions as F

    if event_splits is None:
        return items.withColumn(BITS, F.lit(1))
    in_training = F.col("part").isin(*training_parts)
    head = head_threshold(event_splits.where(in_training).select("item_idx"))
    counts = event_splits.groupBy("item_idx").agg(F.count_if(in_training).alias("__events"))
    events = F.coalesce("__events", F.lit(0))
    conditions = {
        "all": F.lit(True),
        "known": events > 0,
        "later": F.col("__events") == 0,
        "never": F.col("__events").isNull(),
        **_by_popularity(events, head),
    }
    bits = _as_bits(conditions[name] for name in ITEM_SLICES)
    return items.join(counts, "item_idx", "left").withColumn(BITS, bits).drop("__events")


def _by_popularity(events: Column, head: int) -> dict[str, Column]:
    return {
        "lt5": events < RARE,
        "tail": events < TAIL,
        "torso": (events >= TAIL) & (events < head),
        "head": events >= head,
    }


def _as_bits(conditions: Iterable[Column]) -> Column:
    """An integer whose bit k is set if the k-th condition is true (not set for null)."""
    from pyspark.sql import functions as F

    bits = F.lit(0)
    for position, condition in enumerate(conditions):
        bits = bits + F.when(condition, 1 << position).otherwise(0)
    return bits.cast("int")


def in_slice(name: str) -> Column:
    """Whether a row with the column ``slices`` is in the item slice ``name``."""
    from pyspark.sql import functions as F

    return F.col(BITS).bitwiseAND(1 << list(ITEM_SLICES).index(name)) != 0


def slices_of(bits: int) -> list[str]:
    """Names of the item slices whose bits are set."""
    return [name for position, name in enumerate(ITEM_SLICES) if bits >> position & 1]


def reported(item_counts: Mapping[str, int]) -> list[str]:
    """Item slices that get a figure of their own: ``all``, and those with some items but not all.

    Args:
        item_counts: slice -> number of its items.
    """
    most = item_counts.get("all", 0)
    return ["all", *(n for n in ITEM_SLICES if n != "all" and 0 < item_counts.get(n, 0) < most)]
