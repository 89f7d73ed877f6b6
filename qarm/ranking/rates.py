"""Counts and smoothed rates as of each sample's time, from strictly earlier events.

Events at the time of the sample do not count. A leave-one-out rate ("all events but this one")
would reveal the label to a model that also has an item embedding.

With observed negatives a rate is the share of positives among the earlier events of the user or the
item, smoothed towards the training part's share g by ``prior`` pseudo-events:

    rate = (positives + prior g) / (events + prior)

Where all events of the log are positive, negatives are sampled: n per positive, uniformly from the
items seen so far. After C positives and with N items seen, an item has n C / N expected negatives.
Its rate follows the same formula over these expected impressions, with g = 1 / (1 + n): popularity
relative to the average item, on the scale of the samples' share of positives. A user has n
negatives per positive, so that the user's rate is g.

For logs without times, ``order_only`` replaces ``totals_before`` and the counts of items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

MICROSECONDS = 1_000_000
_DAY_SECONDS = 86_400
PRIOR_EVENTS = 10.0
"""Weight of the training part's share in a rate, in events."""


def counts_before(
    events: DataFrame, samples: DataFrame, keys: Mapping[str, Sequence[str]]
) -> DataFrame:
    """``samples`` with the number of earlier events and positives that share a key with them.

    One shuffle per key, of the union of both frames, and a running sum: memory does not grow with
    the number of rows of a key.

    Args:
        events: (key columns, ts in microseconds, positive).
        samples: (key columns, ts in microseconds, ...).
        keys: name -> key columns; adds ``<name>_events`` and ``<name>_positives`` (bigint).
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    columns = sorted({column for key in keys.values() for column in key})
    counted = events.select(
        *columns, "ts", F.lit(1).alias("__event"), F.col("positive").cast("int").alias("__positive")
    )
    waiting = samples.withColumns({"__event": F.lit(0), "__positive": F.lit(0)})
    rows = waiting.unionByName(counted, allowMissingColumns=True)
    for name, key in keys.items():
        earlier = Window.partitionBy(*key).orderBy("ts").rangeBetween(Window.unboundedPreceding, -1)
        for what, column in (("events", "__event"), ("positives", "__positive")):
            total = F.coalesce(F.sum(column).over(earlier), F.lit(0))
            rows = rows.withColumn(f"{name}_{what}", total)
    return rows.where("__event = 0").drop("__event", "__positive")


def totals_before(events: DataFrame) -> DataFrame:
    """What the whole log had seen before each second that has an event.

    Running totals are computed within each day and over a small table of daily sums, so that no
    task sorts the whole log.

    Args:
        events: (item_idx, ts in microseconds, positive).

    Returns:
        (second, positives_before, items_before): positives of, and distinct items first seen in,
        earlier seconds.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    second = F.floor(F.col("ts") / MICROSECONDS)
    happened = events.groupBy(second.alias("second")).agg(
        F.count_if("positive").alias("positives"), F.lit(0).cast("bigint").alias("items")
    )
    appeared = first_seen(events).groupBy("second").agg(F.count("*").alias("items"))
    appeared = appeared.select("second", F.lit(0).cast("bigint").alias("positives"), "items")
    what = ("positives", "items")
    moments = (
        happened.unionByName(appeared)
        .groupBy("second")
        .agg(*(F.sum(name).alias(name) for name in what))
        .withColumn("day", F.floor(F.col("second") / _DAY_SECONDS))
    )

    def running(frame: DataFrame, over: object, suffix: str) -> DataFrame:
        return frame.withColumns(
            {f"{n}{suffix}": F.coalesce(F.sum(n).over(over), F.lit(0)) for n in what}  # type: ignore[arg-type]
        )

    earlier = (Window.unboundedPreceding, -1)
    days = moments.groupBy("day").agg(*(F.sum(name).alias(name) for name in what))
    days = running(days, Window.orderBy("day").rowsBetween(*earlier), "_days").drop(*what)
    within = Window.partitionBy("day").orderBy("second").rowsBetween(*earlier)
    return (
        running(moments, within, "_within")
        .join(days, "day")
        .select(
            "second",
            *((F.col(f"{n}_days") + F.col(f"{n}_within")).alias(f"{n}_before") for n in what),
        )
    )


def with_totals(events: DataFrame, totals: DataFrame) -> DataFrame:
    """``events`` with positives_before and items_before of ``totals_before``."""
    from pyspark.sql import functions as F

    second = F.floor(F.col("ts") / MICROSECONDS)
    return events.withColumn("second", second).join(totals, "second").drop("second")


def first_seen(events: DataFrame) -> DataFrame:
    """(item_idx, second): the second of each item's first event."""
    from pyspark.sql import functions as F

    return events.groupBy("item_idx").agg(F.floor(F.min("ts") / MICROSECONDS).alias("second"))


def smoothed(positives: Column, impressions: Column, share: float, prior: float) -> Column:
    """(positives + prior share) / (impressions + prior)."""
    from pyspark.sql import functions as F

    return (positives + F.lit(prior * share)) / (impressions + F.lit(prior))


def with_rates(
    samples: DataFrame,
    *,
    share: float,
    negatives_per_positive: int | None,
    prior: float = PRIOR_EVENTS,
) -> DataFrame:
    """Add user_count, user_rate, item_count and item_rate (see the module's docstring).

    Args:
        samples: with events and positives of "user" and "item"; with sampled negatives also
            positives_before and items_before.
        share: g, the training part's share of positives.
        negatives_per_positive: n of sampled negatives; None: negatives are observed.
        prior: pseudo-events.
    """
    from pyspark.sql import functions as F

    user, item = F.col("user_events"), F.col("item_events")
    if negatives_per_positive is not None:
        n = F.lit(negatives_per_positive)
        user = F.col("user_positives") * (n + 1)
        per_item = F.col("positives_before") / F.greatest(F.col("items_before"), F.lit(1))
        item = F.col("item_positives") + n * per_item
    return samples.withColumns(
        {
            "user_count": F.col("user_events").cast("float"),
            "item_count": F.col("item_events").cast("float"),
            "user_rate": smoothed(F.col("user_positives"), user, share, prior).cast("float"),
            "item_rate": smoothed(F.col("item_positives"), item, share, prior).cast("float"),
        }
    )
