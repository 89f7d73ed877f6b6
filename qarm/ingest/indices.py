"""Dense indices for ids, without sorting everything in one partition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def numbered(
    df: DataFrame,
    order: Sequence[Column],
    name: str,
    keep: Callable[[DataFrame], DataFrame],
    *,
    start: int = 0,
) -> tuple[DataFrame, int]:
    """``df`` with ``name`` = ``start`` + the row's 0-based rank in ``order``, and the row count.

    Rows are partitioned by range and sorted. One count per partition is collected.

    Args:
        df: rows; persisted, since Spark draws the ranges from a sample and must not draw twice.
        order: total order; the ranks of equal rows are arbitrary.
        name: of the new column (bigint).
        keep: persists a frame and frees it later.
        start: the first index.
    """
    from pyspark.sql import functions as F

    partitions = int(df.sparkSession.conf.get("spark.sql.shuffle.partitions") or 1)
    placed = keep(
        df.repartitionByRange(partitions, *order)
        .sortWithinPartitions(*order)
        # The id is (partition << 33) + row within the partition.
        .withColumn("__place", F.monotonically_increasing_id())
    )
    partition = F.shiftright("__place", 33).cast("int")
    row = F.col("__place").bitwiseAND(F.lit((1 << 33) - 1))
    counts = {
        r["partition"]: r["rows"]
        for r in placed.groupBy(partition.alias("partition"))
        .agg(F.count("*").alias("rows"))
        .collect()
    }
    total = sum(counts.values())
    before = [0, *accumulate(counts.get(p, 0) for p in range(partitions))]
    offsets = F.array(*[F.lit(start + n).cast("bigint") for n in before[:partitions]])
    rank = F.element_at(offsets, partition + 1) + row
    return placed.withColumn(name, rank.cast("bigint")).drop("__place"), total
