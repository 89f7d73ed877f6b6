"""The k first rows of each group, and sums that do not depend on their order, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: Parts that a group is cut into before its first k rows are taken, where Spark does not do so.
_SALTS = 64


def top_k(
    df: DataFrame, by: Sequence[str], order: Sequence[Column], k: int, *, rank: str | None = None
) -> DataFrame:
    """The first ``k`` rows of each group, whatever the size of the largest group.

    Spark trims each map partition to k rows a group before the shuffle (WindowGroupLimit), but only
    for k up to ``spark.sql.optimizer.windowGroupLimitThreshold``; above it a salted first step does
    the same, so that no task has to sort a whole large group.

    Args:
        df: rows.
        by: columns of the group.
        order: a total order, or else which of several equal rows stay is left to chance.
        k: rows kept.
        rank: name of a column for the 1-based place of the row; none: not kept.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    name = rank or "__rank"
    limit = df.sparkSession.conf.get("spark.sql.optimizer.windowGroupLimitThreshold", "1000")
    if k > int(limit or 0):
        plain = [F.col(f"`{c}`") for c, t in df.dtypes if not t.startswith("map")]
        df = df.withColumn("__salt", F.pmod(F.xxhash64(*plain), F.lit(_SALTS)))
        salted = Window.partitionBy(*by, "__salt").orderBy(*order)
        df = df.withColumn(name, F.row_number().over(salted)).where(F.col(name) <= k)
        df = df.drop("__salt", name)
    window = Window.partitionBy(*by).orderBy(*order)
    df = df.withColumn(name, F.row_number().over(window)).where(F.col(name) <= k)
    return df if rank else df.drop(name)


def exact_sum(column: str | Column) -> Column:
    """Sum of a double column as a double, the same in whatever order the rows come.

    Added up as decimals with 12 places: floating sums over a shuffle differ in their last bits from
    run to run, and equal inputs shall give equal tables.
    """
    from pyspark.sql import functions as F

    value = F.col(column) if isinstance(column, str) else column
    return F.sum(value.cast("decimal(28,12)")).cast("double")
