"""Row counts of several frames in one query."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def count_rows(frames: Mapping[str, DataFrame]) -> dict[str, int]:
    """Name -> rows of the frame.

    One query, because each query has a fixed cost, and Spark reads once what frames share.
    """
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    counts = [
        frame.agg(F.count("*").alias("rows")).withColumn("name", F.lit(name))
        for name, frame in frames.items()
    ]
    rows = reduce(DataFrame.unionByName, counts).collect()
    return {row["name"]: int(row["rows"]) for row in rows}
