"""Keys that Spark's hash spreads one a task."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from qarm.pairs.keys import partition_keys


@pytest.mark.parametrize("partitions", [1, 2, 7, 64])
def test_each_key_goes_to_its_own_partition(spark, partitions):
    keys = partition_keys(spark, partitions).tolist()
    rows = spark.createDataFrame([(k,) for k in keys], "key bigint").repartition(partitions, "key")
    found = dict(rows.select("key", F.spark_partition_id()).collect())
    assert [found[key] for key in keys] == list(range(partitions))
