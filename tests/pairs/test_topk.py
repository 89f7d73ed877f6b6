"""First k of each group, and sums that agree to the last bit."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from qarm.pairs.topk import exact_sum, top_k


@pytest.mark.parametrize("limit", ["1000", "1"])
def test_first_k_of_each_group_with_and_without_the_salted_step(spark, settings, limit):
    rows = spark.range(200).select((F.col("id") % 3).alias("g"), (199 - F.col("id")).alias("x"))
    with settings(spark__sql__optimizer__windowGroupLimitThreshold=limit):
        kept = top_k(rows, ["g"], [F.asc("x")], 4, rank="place").collect()
    found = {(r["g"], r["place"]): r["x"] for r in kept}
    assert len(kept) == 12
    of = {g: sorted(199 - i for i in range(200) if i % 3 == g) for g in range(3)}
    assert found == {(g, k + 1): of[g][k] for g in of for k in range(4)}


def test_exact_sum_does_not_depend_on_the_order(spark):
    values = [0.1, 1e9, -0.3, 1e-7, 3.3, 1e9, 0.7] * 30
    frames = [
        spark.createDataFrame([(v,) for v in each], "v double") for each in (values, values[::-1])
    ]
    sums = {
        f.repartition(n).agg(exact_sum("v")).first()[0] for f, n in zip(frames, (1, 5), strict=True)
    }
    assert len(sums) == 1
    assert sums.pop() == pytest.approx(sum(values))
