"""Dense numbers over several partitions."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from qarm.ingest.indices import numbered
from qarm.lake.caching import Keeper

pytestmark = pytest.mark.spark


@pytest.mark.parametrize("partitions", [1, 5])
def test_rank_is_dense_and_in_order(spark, partitions) -> None:
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", partitions)
    try:
        df = spark.range(1000).select(
            F.col("id"), F.when(F.col("id") % 7 > 0, F.xxhash64("id") % 50).alias("x")
        )
        with Keeper() as keep:
            order = [F.col("x").asc_nulls_last(), F.col("id").desc()]
            ranked, rows = numbered(df, order, "n", keep, start=100)
            found = ranked.orderBy("n").collect()
            assert ranked.rdd.getNumPartitions() == partitions
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    assert rows == 1000
    assert [r["n"] for r in found] == list(range(100, 1100))
    keys = [(r["x"] is None, r["x"] or 0, -r["id"]) for r in found]
    assert keys == sorted(keys)


def test_nothing_to_number(spark) -> None:
    with Keeper() as keep:
        ranked, rows = numbered(spark.range(0), [F.col("id").asc()], "n", keep)
        assert (ranked.count(), rows) == (0, 0)
