"""The k first rows of each group, and sums that do not depend on their order, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: Parts into which a group is cut before its first k rows are taken, if Spark does not do so.
_SALTS = 64


def top_k(
    df: DataFrame, by: Sequence[str], order: Sequence[Column], k: int, *, rank: str | None = None
) -> DataFrame:
    """The first ``k`` rows of each group, for groups of any size.

    Spark trims each map partition to k rows per group before the shuffle (WindowGroupLimit), but
    only for k up to ``spark.sql.optimizer.windowGroupLimitThreshold``; above it a salted first step
    does the same, so that no task has to sort a large group alone.

    Args:
        df: rows.
        by: columns of the group.
        order: a total order; otherwise it is arbitrary which of several equal rows are kept.
        k: rows kept.
        rank: name of a column for the 1-based rank of the row; None: no such column.
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
    """Sum of a double column as a double that does not depend on the order of the rows.

    Values are added as decimals with 12 places: floating-point sums over a shuffle differ in their
    last bits from run to run, and equal inputs must give equal tables. Values are at most 1e15,
    sums at most 1e25, and what is below 5e-13 counts as 0; ingest takes weights of 1e-9 to 1e12.
    """
    from pyspark.sql import functions as F

    value = F.col(column) if isinstance(column, str) else column
    return F.sum(value.cast("decimal(28,12)")).cast("double")
