"""Row counts of several frames."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from qarm.lake.counting import count_rows

pytestmark = pytest.mark.spark


def test_counts_each_frame_in_one_query(spark: SparkSession) -> None:
    numbers = spark.range(10)
    frames = {"all": numbers, "even": numbers.where("id % 2 = 0"), "none": numbers.where("id < 0")}
    assert count_rows(frames) == {"all": 10, "even": 5, "none": 0}
    assert count_rows({"one": numbers.limit(1)}) == {"one": 1}
