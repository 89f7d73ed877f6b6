"""Statistics of the log, counted by hand."""

from __future__ import annotations

import pytest

from qarm.ingest import statistics
from qarm.ingest.times import from_micros

DAY = 86_400_000_000


def test_boundaries_follow_the_last_event_of_each_part() -> None:
    parts = {"train": {"first": 10, "last": 20}, "test": {"first": 40, "last": 50}}
    ends = statistics.boundaries(parts)
    after_train = from_micros(21).isoformat()
    assert ends == {"mine_end": after_train, "train_end": after_train, "valid_end": after_train}
    parts["mine"] = {"first": 1, "last": 5}
    assert statistics.boundaries(parts)["mine_end"] == from_micros(6).isoformat()


@pytest.mark.spark
def test_parts_days_and_degrees(spark) -> None:
    micros = [0, 1, DAY, 3 * DAY]
    rows = [("train" if at < DAY else "test", at < 1, at) for at in micros]
    events = spark.createDataFrame(rows, "part string, positive boolean, at long")
    events = events.selectExpr("*", "timestamp_micros(at) ts")
    parts = statistics.part_statistics(events)
    assert parts == {
        "train": {"rows": 2, "positives": 1, "first": 0, "last": 1},
        "test": {"rows": 2, "positives": 0, "first": DAY, "last": 3 * DAY},
    }
    found = statistics.events_over_time(events, 0, 3 * DAY)
    assert found == {"start": "1970-01-01", "bucket_days": 1, "counts": [2, 1, 0, 1]}
    many = statistics.events_over_time(events, 0, 3 * DAY + 999 * DAY)
    assert many["bucket_days"] == 3
    assert many["counts"][:2] == [3, 1]
    degrees = spark.createDataFrame([(1,), (3,)], "events long")
    assert statistics.degrees(degrees, degrees)["users"]["p50"] == 2.0
    assert statistics.degrees(degrees, degrees)["items"]["n"] == 2
