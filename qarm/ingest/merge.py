"""Merge log lines of one key into one event, and order each user's events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def merge_lines(lines: DataFrame, merge_values: str, content: Sequence[Column] = ()) -> DataFrame:
    """One row per (user, item, event, ts).

    Values are combined by ``merge_values`` (sum, max, mean), weights are added, a label holds if it
    holds for any line, and ``lines`` counts the lines. Sums run over sorted values, so that the
    result does not depend on the order of the rows.

    Args:
        lines: usable rows of ``ingest.log.judged``, still partitioned by ``shard`` = user.
        merge_values: how values are combined.
        content: columns of the log that describe the item; kept as ``contents``, a struct per line.
    """
    from pyspark.sql import functions as F

    def total(name: str) -> Column:
        values = F.array_sort(F.collect_list(name))
        return F.aggregate(values, F.lit(0.0), lambda a, b: a + b)

    value = {
        "sum": F.when(F.count("value") > 0, total("value")),
        "max": F.max("value"),
        "mean": F.try_divide(total("value"), F.count("value")),
    }[merge_values]
    labels = [name for name in lines.columns if name.startswith("label_")]
    extra = [F.collect_list(F.struct(*content)).alias("contents")] if content else []
    # Of lines with different parts the latest part counts: no test event is trained on.
    part = F.max(F.struct("part_rank", "source_split"))
    return (
        lines.groupBy("shard", "item_id", "event", "ts")
        .agg(
            value.alias("value"),
            total("weight").alias("weight"),
            *[F.max(name).alias(name) for name in labels],
            F.count("*").alias("lines"),
            part.alias("part_of_source"),
            *extra,
        )
        .withColumn("part_rank", F.col("part_of_source.part_rank"))
        .withColumn("source_split", F.col("part_of_source.source_split"))
        .drop("part_of_source")
        .withColumnRenamed("shard", "user_id")
    )


def with_order(events: DataFrame) -> DataFrame:
    """``events`` with seq: the 0-based rank among the user's events in time.

    Ties are broken by a hash of the event, not by the item's id, which may correlate with its age.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    tie = F.xxhash64("user_id", "item_id", "event")
    window = Window.partitionBy("user_id").orderBy("ts", tie, "item_id", "event")
    return events.withColumn("seq", (F.row_number().over(window) - 1).cast("bigint"))
