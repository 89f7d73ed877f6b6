"""Slices of held-out samples: repeat and new targets, rare and popular items.

Slices overlap (cold is within lt5, that within tail); each row carries one bit a slice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: Items with fewer training events are rare.
TAIL = 20
#: Slice -> what is in it; the order is that of the bits.
SLICES: dict[str, str] = {
    "all": "every sample",
    "new": "the user had not had the target before",
    "repeat": "the user had had the target before",
    "cold": "the target has no event in training",
    "lt5": "the target has fewer than 5 events in training (cold ones too)",
    "tail": "the target has fewer than 20 events in training (lt5 too)",
    "torso": "the target is neither in tail nor in head",
    "head": "the target is in the top tenth of items by training events",
}


def head_threshold(training_events: DataFrame) -> int:
    """Events in training from which on an item is in the top tenth ("head"), at least 20.

    The top tenth is taken of items with an event in training; ties at its edge are all in. Where
    even the top tenth has fewer than 20 events, those items stay in the tail only.

    Args:
        training_events: one row an event before train_end, with item_idx.
    """
    from pyspark.sql import functions as F

    counts = training_events.groupBy("item_idx").count()
    edge = F.expr("percentile_disc(0.1) WITHIN GROUP (ORDER BY count DESC)")
    row = counts.agg(edge.alias("edge")).first()
    assert row is not None
    return max(TAIL, int(row["edge"] or 0))


def membership(head: int) -> Column:
    """Bit k is set where a row of predictions is in the k-th slice of ``SLICES``."""
    from pyspark.sql import functions as F

    events = F.col("item_train_events")
    conditions = {
        "all": F.lit(True),
        "new": ~F.col("is_repeat"),
        "repeat": F.col("is_repeat"),
        "cold": events == 0,
        "lt5": events < 5,
        "tail": events < TAIL,
        "torso": (events >= TAIL) & (events < head),
        "head": events >= head,
    }
    return as_bits(conditions[name] for name in SLICES)


def as_bits(conditions: Iterable[Column]) -> Column:
    """A whole number whose bit k is set where the k-th condition holds (null: it does not)."""
    from pyspark.sql import functions as F

    bits = F.lit(0)
    for position, condition in enumerate(conditions):
        bits = bits + F.when(condition, 1 << position).otherwise(0)
    return bits.cast("int")
