"""Slices of the catalogue that figures of codes are told by: when first seen, and how popular.

Slices overlap (``later`` and ``never`` are within ``lt5``, that within ``tail``); each item carries
one bit a slice, so that one pass counts them all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from qarm.codes.population import KNOWN, LATER, NEVER, with_seen
from qarm.evaluation.sample_slices import TAIL, as_bits, head_threshold
from qarm.ingest.parts import training_parts

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from qarm.pipeline.context import Context

#: Slice -> what is in it; the order is that of the bits.
SLICES: dict[str, str] = {
    "all": "every item that has a code",
    KNOWN: "an event of the training part",
    LATER: "events of the valid and test parts alone",
    NEVER: "no event at all",
    "lt5": "fewer than 5 training events",
    "tail": f"fewer than {TAIL} training events (lt5 too)",
    "torso": "neither in tail nor in head",
    "head": "the top tenth of items by training events",
}
#: Column of the bits.
BITS = "slices"


def with_slices(context: Context, items: DataFrame) -> DataFrame:
    """``items`` (with item_idx) and column ``slices``: bit k is set in the k-th of ``SLICES``.

    Events are those of ``event_splits`` in the training parts. Without a log every item is in
    ``all`` alone.
    """
    from pyspark.sql import functions as F

    if context.find("event_splits") is None:
        return items.withColumn(BITS, F.lit(1))
    parts = training_parts(context.facts("ingest"))
    training = context.table("event_splits").where(F.col("part").isin(parts))
    head = head_threshold(training.select("item_idx"))
    counts = training.groupBy("item_idx").agg(F.count("*").alias("__events"))
    marked = with_seen(items, context.table("event_splits"), parts)
    rows = marked.join(counts, "item_idx", "left").fillna(0, "__events")
    events, seen = F.col("__events"), F.col("seen")
    inside = {
        "all": F.lit(True),
        **{kind: seen == kind for kind in (KNOWN, LATER, NEVER)},
        "lt5": events < 5,
        "tail": events < TAIL,
        "torso": (events >= TAIL) & (events < head),
        "head": events >= head,
    }
    bits = as_bits(inside[name] for name in SLICES)
    return rows.withColumn(BITS, bits).drop("seen", "__events")


def member(name: str) -> Column:
    """Whether a row is in the slice."""
    from pyspark.sql import functions as F

    return F.col(BITS).bitwiseAND(1 << list(SLICES).index(name)) != 0


def within(bits: int) -> list[str]:
    """Names of the slices whose bits are set."""
    return [name for position, name in enumerate(SLICES) if bits >> position & 1]


def told(items_of: Iterable[tuple[str, int]]) -> list[str]:
    """Slices worth a figure of their own, from (slice, its items): those with some but not all.

    Returns:
        ``all`` first, then the others in their order.
    """
    counts = dict(items_of)
    most = counts.get("all", 0)
    return ["all", *(n for n in SLICES if n != "all" and 0 < counts.get(n, 0) < most)]


def names(found: Collection[str]) -> list[str]:
    """``found`` in the order of ``SLICES``."""
    return [name for name in SLICES if name in found]
