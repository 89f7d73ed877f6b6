"""Keys that send each block of a shuffle to a task of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


#: Keys computed before: Spark's hash is the same in every session.
_known: dict[int, NDArray[Any]] = {}


def partition_keys(spark: SparkSession, partitions: int) -> NDArray[Any]:
    """int64[partitions], for each partition a number that Spark's hash sends there.

    Hashing the block numbers themselves would give some tasks two blocks and others none.
    """
    from pyspark.sql import functions as F

    if partitions in _known:
        return _known[partitions]
    found: dict[int, int] = {}
    first, size = 0, 8 * partitions + 64
    while len(found) < partitions:
        numbers = spark.range(first, first + size)
        place = F.pmod(F.hash("id"), F.lit(partitions)).alias("place")
        for row in numbers.groupBy(place).agg(F.min("id").alias("id")).collect():
            found.setdefault(row["place"], row["id"])
        first, size = first + size, 2 * size
    _known[partitions] = np.array([found[place] for place in range(partitions)], np.int64)
    return _known[partitions]
