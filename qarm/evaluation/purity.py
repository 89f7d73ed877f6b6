"""Do items of a prefix carry the same category? By Spark, over the whole catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.ledger import Metric

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_KEY = ("field", "length", "prefix")


def category_purity(ids: DataFrame, items: DataFrame, levels: int) -> list[Metric]:
    """Share of items that carry the most common value of the *other* items of their prefix.

    The item itself is left out of the vote: plain purity is 1 for a prefix of one item, and so
    rises with the number of codes alone. Where several values are equally common, the share of
    them that the item carries counts. Items that are alone in their prefix are not counted. The
    chance level is the share of the counted items that carry the most common value of the
    catalogue: what one prefix for all would give.

    Args:
        ids: with item_idx and rq.
        items: the catalogue; fields of ``attributes``, each with one or several values an item.
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
    # Others of the prefix have one vote less for each value of the item. If a top value is not
    # the item's, that one wins. If all are, they keep top - 1 votes, and tie with the other values
    # that have as many.
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
    found = (
        per_item.where(~(all_mine & (F.col("top") == 1)))  # alone
        .groupBy("field", "length")
        .agg(
            F.avg(F.when(all_mine, F.col("tops") / tied).otherwise(0.0)).alias("purity"),
            F.avg("common").alias("chance"),
            F.count("*").alias("items"),
        )
        .orderBy("field", "length")
        .collect()  # a row a field and level
    )
    return [
        Metric(
            metric=f"rq_{name}_l{row['length'] + 1}",
            value=float(row[column]),
            n=int(row["items"]),
            slice=f"field {row['field']}",
            variant="rq",
        )
        for row in found
        for name, column in (("purity", "purity"), ("purity_chance", "chance"))
    ]
