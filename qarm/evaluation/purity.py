"""Whether items that share a prefix of their code share a category, over the whole catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.ledger import Metric

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_KEY = ("field", "length", "prefix")


def category_purity(ids: DataFrame, items: DataFrame, levels: int) -> list[Metric]:
    """Share of items that have the most common category of the *other* items of their prefix.

    The item itself does not vote: plain purity is 1 for a prefix of one item, and so would rise
    with the number of codes alone. If several values are equally common, the item counts with the
    share of them that it has. Items that are alone in their prefix do not count. The chance level
    is the share of the counted items that have the most common value of the catalogue, the purity
    of a single prefix for all items.

    Args:
        ids: with item_idx and rq.
        items: the catalogue; each field of ``attributes`` has one or several values per item.
        levels: length of the codes.

    Returns:
        ``rq_purity_l<n>`` and ``rq_purity_chance_l<n>``; the slice is ``field <name>``.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    values = (
        items.select("item_idx", F.explode("attributes").alias("field", "values"))
        .select("item_idx", "field", F.explode(F.array_distinct("values")).alias("value"))
        .where(F.col("value").isNotNull())
        .join(ids.select("item_idx"), "item_idx", "left_semi")
    )
    totals = values.groupBy("field", "value").agg(F.count("*").alias("total"))
    most = totals.groupBy("field").agg(
        F.max_by("value", F.struct("total", "value")).alias("common")
    )
    values = values.join(F.broadcast(most), "field")
    prefixes = [F.xxhash64(F.slice("rq", 1, length)) for length in range(1, levels + 1)]
    placed = ids.select("item_idx", F.posexplode(F.array(*prefixes)).alias("length", "prefix"))
    rows = values.join(placed, "item_idx")
    counts = rows.groupBy(*_KEY, "value").agg(F.count("*").alias("n"))
    counts = counts.withColumn("top", F.max("n").over(Window.partitionBy(*_KEY)))
    first = F.col("n") == F.col("top")
    second = (F.col("n") == F.col("top") - 1) & (F.col("n") > 0)
    tops = counts.groupBy(*_KEY).agg(
        F.count_if(first).alias("tops"), F.count_if(second).alias("seconds")
    )
    # Without the item, each of its values has one vote less. If a top value is not the item's, that
    # value wins. If all top values are, they keep top - 1 votes and tie with the values that have
    # top - 1 votes and are not the item's.
    per_item = (
        rows.join(counts, [*_KEY, "value"])
        .groupBy("item_idx", *_KEY, "top")
        .agg(
            F.count_if(first).alias("mine"),
            F.count_if(second).alias("mine_second"),
            F.max((F.col("value") == F.col("common")).cast("int")).alias("common"),
        )
        .join(tops, list(_KEY))
    )
    all_mine = F.col("mine") == F.col("tops")
    tied = F.col("tops") + F.col("seconds") - F.col("mine_second")
    rates = (
        per_item.where(~(all_mine & (F.col("top") == 1)))  # alone
        .groupBy("field", "length")
        .agg(
            F.avg(F.when(all_mine, F.col("tops") / tied).otherwise(0.0)).alias("purity"),
            F.avg("common").alias("chance"),
            F.count("*").alias("items"),
        )
        .orderBy("field", "length")
        .collect()  # one row per field and level
    )
    return [
        Metric(
            metric=f"rq_{name}_l{row['length'] + 1}",
            value=float(row[column]),
            n=int(row["items"]),
            slice=f"field {row['field']}",
            variant="rq",
        )
        for row in rates
        for name, column in (("purity", "purity"), ("purity_chance", "chance"))
    ]
