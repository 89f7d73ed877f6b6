"""Time in every format."""

from __future__ import annotations

from datetime import datetime

import pytest
from pyspark.sql import functions as F

from qarm.errors import ConfigError, InputError
from qarm.ingest import times

pytestmark = pytest.mark.spark
NOON = 1_704_110_400  # 2024-01-01T12:00:00Z


def micros(spark, values, kind: str, time_format: str) -> list[int | None]:
    df = spark.createDataFrame([(v,) for v in values], f"t {kind}")
    value = times.instant(F.col("t"), kind, time_format, "log.time: column 't'")
    return [row[0] for row in df.select(F.unix_micros(value)).collect()]


@pytest.mark.parametrize(
    ("time_format", "kind", "values", "expected"),
    [
        ("iso", "string", ["2024-01-01T12:00:00Z", "2024-01-01T14:00:00.5+02:00"], [0, 500_000]),
        ("iso", "string", ["2024-01-01 12:00:00", "noon", None], [0, None, None]),
        # Spark takes a time without a date for one of today, and 2024010112 for a year.
        ("iso", "string", ["12:30", "T12:00:00", "2024010112", "now"], [None] * 4),
        ("iso", "string", ["9999-12-31", "9999-12-31T23:59:59.999999Z"], [None, None]),
        ("epoch_s", "bigint", [253_402_300_799], [None]),
        ("epoch_s", "bigint", [NOON, NOON * 1000], [0, None]),  # milliseconds are out of range
        ("epoch_s", "double", [NOON + 0.25, float("nan")], [250_000, None]),
        ("epoch_ms", "string", [f"{NOON}007", "soon"], [7_000, None]),
        ("epoch_us", "bigint", [NOON * 1_000_000 + 3], [3]),
        ("timestamp", "timestamp_ntz", [datetime(2024, 1, 1, 12, 0, 0, 9)], [9]),
    ],
)
def test_instant(spark, time_format, kind, values, expected) -> None:
    wanted = [None if e is None else NOON * 1_000_000 + e for e in expected]
    assert micros(spark, values, kind, time_format) == wanted


def test_years_that_python_does_not_have(spark) -> None:
    df = spark.sql("SELECT timestamp_micros(400000000000000000) AS t")  # 14645
    value = times.instant(F.col("t"), "timestamp", "timestamp", "log.time")
    assert df.where(value.isNull()).count() == 1


def test_positions_are_seconds(spark) -> None:
    assert micros(spark, [0, 41], "int", "order") == [0, 41_000_000]


@pytest.mark.parametrize(
    ("kind", "time_format"),
    [("bigint", "timestamp"), ("string", "timestamp"), ("int", "iso"), ("boolean", "epoch_s")],
)
def test_types_that_hold_no_time(spark, kind, time_format) -> None:
    with pytest.raises(InputError, match="column 't'"):
        times.instant(F.lit(None).cast(kind), kind, time_format, "log.time: column 't'")


def test_iso_of_the_configuration() -> None:
    assert times.parse_iso("2024-01-01T12:00:00+02:00", "x") == datetime(2024, 1, 1, 10)
    assert times.micros_of(datetime(2024, 1, 1, 12)) == NOON * 1_000_000
    assert times.from_micros(NOON * 1_000_000 + 1) == datetime(2024, 1, 1, 12, 0, 0, 1)
    with pytest.raises(ConfigError, match=r"log\.as_of"):
        times.parse_iso("tomorrow", "log.as_of")
