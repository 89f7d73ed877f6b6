"""Logs without times, ordered within each user: what a sample may know about other users.

Positions of different users cannot be compared: the tenth event of one user is neither before nor
after the fifth event of another. Only the parts of the split are common to all users:

* an item counts as seen before a sample if it has an event in the sample's part or an earlier part;
  sampled negatives are drawn from these items;
* counts and rate of an item are out of fold: they come from training events of users in the other
  ``FOLDS`` - 1 folds, for samples of every part. They contain no event of the sample's user and
  none of validation or test.

History, repeats and the user's own counts come from strictly earlier events, as in logs with times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FOLDS = 10
"""Folds of users, by a hash of user_idx."""

PART_ORDER = {"mine": 0, "train": 0, "valid": 1, "test": 2}
"""Part -> its place in time; the mine part belongs to the past of training."""

_CHUNK = 65_536
"""Range of item indices that is numbered at once."""


def fold() -> Column:
    """Fold of the row's user, 0 to ``FOLDS`` - 1."""
    from pyspark.sql import functions as F

    return F.pmod(F.xxhash64(F.lit("fold"), "user_idx"), F.lit(FOLDS)).cast("int")


def _part_order() -> Column:
    from pyspark.sql import functions as F

    order = F.lit(None).cast("int")
    for part, place in PART_ORDER.items():
        order = F.when(F.col("part") == part, place).otherwise(order)
    return order


def _first_parts(events: DataFrame) -> DataFrame:
    """(item_idx, first): place in ``PART_ORDER`` of the first part with an event of the item."""
    from pyspark.sql import functions as F

    return events.groupBy("item_idx").agg(F.min(_part_order()).alias("first"))


def numbered_items(events: DataFrame) -> DataFrame:
    """(item_idx, item_number): 0-based, by the first part with an event of the item, then item_idx.

    Items are numbered within a part and a range of indices; a small table of counts gives the first
    number of each. No task sorts the whole catalogue.

    Args:
        events: (item_idx, part).
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    chunk = F.floor(F.col("item_idx") / _CHUNK)
    items = _first_parts(events).withColumn("chunk", chunk)
    earlier = Window.orderBy("first", "chunk").rowsBetween(Window.unboundedPreceding, -1)
    offsets = (
        items.groupBy("first", "chunk")
        .count()
        .select("first", "chunk", F.coalesce(F.sum("count").over(earlier), F.lit(0)).alias("from"))
    )
    place = F.row_number().over(Window.partitionBy("first", "chunk").orderBy("item_idx")) - 1
    return (
        items.withColumn("place", place)
        .join(offsets, ["first", "chunk"])
        .select("item_idx", (F.col("from") + F.col("place")).alias("item_number"))
    )


def with_totals(events: DataFrame, train_parts: Sequence[str]) -> DataFrame:
    """``events`` with positives_before and items_before; a few counts pass through the driver.

    Args:
        events: (user_idx, item_idx, positive, part, ...).
        train_parts: parts that count as training.

    Returns:
        positives_before: training positives of the other folds. items_before: items with an event
        in the row's part or an earlier one (0 for rows without a part).
    """
    from pyspark.sql import functions as F

    by_first = {
        r["first"]: r["count"] for r in _first_parts(events).groupBy("first").count().collect()
    }
    train = events.where(F.col("part").isin(*train_parts) & F.col("positive"))
    by_fold = {r["fold"]: r["count"] for r in train.groupBy(fold().alias("fold")).count().collect()}
    items, positives = F.lit(0), F.lit(sum(by_fold.values()))
    for place in sorted(set(PART_ORDER.values())):
        seen = sum(
            count for first, count in by_first.items() if first is not None and first <= place
        )
        items = F.when(_part_order() == place, seen).otherwise(items)
    own = F.lit(0)
    for number, count in sorted(by_fold.items()):
        own = F.when(fold() == number, count).otherwise(own)
    return events.withColumns(
        {
            "positives_before": (positives - own).cast("bigint"),
            "items_before": items.cast("bigint"),
        }
    )


def with_item_counts(
    samples: DataFrame, events: DataFrame, train_parts: Sequence[str]
) -> DataFrame:
    """``samples`` with item_events and item_positives, out of fold.

    Args:
        samples: (user_idx, item_idx, ...).
        events: (user_idx, item_idx, positive, part).
        train_parts: parts that count as training.
    """
    from pyspark.sql import functions as F

    by_fold = (
        events.where(F.col("part").isin(*train_parts))
        .groupBy("item_idx", fold().alias("fold"))
        .agg(F.count("*").alias("events"), F.count_if("positive").alias("positives"))
    )
    counts = by_fold.groupBy("item_idx").agg(
        F.map_from_entries(F.collect_list(F.struct("fold", F.struct("events", "positives")))).alias(
            "folds"
        ),
        F.sum("events").alias("all_events"),
        F.sum("positives").alias("all_positives"),
    )
    own = F.try_element_at("folds", fold())
    zero = F.lit(0).cast("bigint")
    return (
        samples.join(counts, "item_idx", "left")
        .withColumns(
            {
                f"item_{what}": F.coalesce(F.col(f"all_{what}") - F.coalesce(own[what], zero), zero)
                for what in ("events", "positives")
            }
        )
        .drop("folds", "all_events", "all_positives")
    )
