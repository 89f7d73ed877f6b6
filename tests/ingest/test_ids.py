"""Ids as text, whatever type their column has."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from qarm.ingest.ids import bad_id, id_text

pytestmark = pytest.mark.spark
WORDS = ("nan", "NONE", "\\N")


@pytest.mark.parametrize(
    ("kind", "values", "texts", "bad"),
    [
        ("string", ["007", " 7 ", "", "  ", None], ["007", " 7 ", None, None, None], [None] * 5),
        ("string", ["NaN", "None ", "\\N", "nancy"], [None, None, None, "nancy"], [None] * 4),
        (
            "string",
            ['{"$oid": "5"}', "{curly", "{}"],
            [None, "{curly", None],
            ['{"$oid": "5"}', None, "{}"],
        ),
        (
            "double",
            [10000011.0, -3.0, 1.5, 2.0**53, math.nan, None],
            ["10000011", "-3", None, None, None, None],
            [None, None, "1.5", "9.007199254740992E15", None, None],
        ),
        ("float", [25.0, 2.0**24], ["25", None], [None, "1.6777216E7"]),
        (
            "decimal(20,2)",
            [Decimal("25.00"), Decimal("0.50"), None],
            ["25", None, None],
            [None, "0.50", None],
        ),
        ("bigint", [2**60 + 1, None], [str(2**60 + 1), None], [None, None]),
    ],
)
def test_ids(spark, kind, values, texts, bad) -> None:
    df = spark.createDataFrame([(v,) for v in values], f"id {kind}").coalesce(1)
    rows = df.select(id_text(F.col("id"), kind, WORDS), bad_id(F.col("id"), kind)).collect()
    assert [row[0] for row in rows] == texts
    assert [row[1] for row in rows] == bad
