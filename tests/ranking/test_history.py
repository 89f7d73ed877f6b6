"""Histories against plain Python, at batch sizes that cut users in pieces."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from qarm.ranking import history, impressions
from tests.lakes.ranking import START_SECOND, random_log, tables

LENGTH = 5


def expected(log, user: int, second: int, length: int) -> tuple[list, list]:
    """Latest positives strictly before, oldest first, ties by item."""
    mine = [e for e in log if e.user == user and e.positive and START_SECOND + e.second < second]
    mine = sorted(mine, key=lambda e: (e.second, e.item))[-length:]
    pad = length - len(mine)
    items = [history.PADDING] * pad + [e.item for e in mine]
    return items, [0] * pad + [START_SECOND + e.second for e in mine]


def test_histories_in_spark(spark, log):
    events = impressions.prepare_events(*tables(spark, log), ["positive"])
    targets = events.select("user_idx", "item_idx", "ts", "part")
    found = history.with_history(events.where("positive"), targets, LENGTH).collect()
    assert len(found) == len(log)
    for row in found:
        items, times = expected(log, row["user_idx"], row["ts"] // 1_000_000, LENGTH)
        assert row["history_item_idx"] == items
        assert row["history_ts"] == times
        assert row["history_length"] == sum(i >= 0 for i in items)


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 7, 1000])
def test_kernel_carries_users_over_batches(batch_rows):
    log = random_log(users=4, events=150, seed=3)
    rows = [(e.user, START_SECOND + e.second, True, e.item) for e in log if e.positive]
    rows += [(e.user, START_SECOND + e.second, False, e.item) for e in log]
    rows.sort()
    columns = np.array([[u, t * 1_000_000, i] for u, t, _, i in rows])
    table = pa.table(
        {
            "user_idx": columns[:, 0],
            "ts": columns[:, 1],
            "item_idx": columns[:, 2],
            "__positive": [p for _, _, p, _ in rows],
        }
    )
    batches = history.attach_histories(iter(table.to_batches(batch_rows)), LENGTH)
    found = [row for batch in batches for row in batch.to_pylist()]
    assert len(found) == len(log)
    for row in found:
        items, times = expected(log, row["user_idx"], row["ts"] // 1_000_000, LENGTH)
        assert (row["history_item_idx"], row["history_ts"]) == (items, times)


def test_user_without_positives_has_only_padding(spark):
    none = spark.createDataFrame([], "user_idx bigint, item_idx bigint, ts bigint")
    one = spark.createDataFrame([(7, 1, 5_000_000)], "user_idx bigint, item_idx bigint, ts bigint")
    row = history.with_history(none, one.withColumn("x", F.lit(1)), 3).first()
    assert (row["history_length"], row["history_item_idx"], row["x"]) == (0, [-1, -1, -1], 1)
