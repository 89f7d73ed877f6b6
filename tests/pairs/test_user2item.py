"""User2Item against its definition, event by event."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from qarm.kernels.similar_trigger import PAIR, find_triggers, new_state, unit_rows
from qarm.pairs.user2item import (
    TARGET_COUNTS,
    cap_user2item,
    mine_user2item,
    pair_user2item,
    stream_triggers,
    user2item,
    user_pairs,
)

from . import reference
from .reference import Event, random_log


def stream(log, by_item, window=50, min_similarity=-1.0, size=3, is_target=lambda event: True):
    """The rows and the tally, without Spark, in batches of ``size``."""
    ordered = sorted(log, key=lambda e: (e.user, e.minute, -e.item))
    dimensions = max((len(v) for v in by_item.values()), default=1)
    table = pa.table(
        {
            "user_idx": pa.array([e.user for e in ordered], pa.int64()),
            "item_idx": pa.array([e.item for e in ordered], pa.int64()),
            "ts": pa.array([int(e.seconds * 1e6) for e in ordered], pa.int64()),
            "weight": pa.array([e.weight for e in ordered], pa.float64()),
            "is_target": pa.array([is_target(e) for e in ordered], pa.bool_()),
            "vector": pa.array([by_item.get(e.item) for e in ordered], pa.list_(pa.float32())),
        }
    )
    batches = stream_triggers(table.to_batches(size), window, min_similarity, dimensions)
    rows = pa.Table.from_batches(list(batches)).to_pylist()
    counts = np.sum([r["counts"] for r in rows if r["counts"] is not None], axis=0)
    found = [tuple(r.values())[:-1] for r in rows if r["counts"] is None]
    return sorted(found), dict(zip(TARGET_COUNTS, counts.tolist(), strict=True))


def same(found, expected):
    expected = sorted((*r[:3], int(r[3].timestamp() * 1e6), *r[4:]) for r in expected)
    assert [r[:4] for r in found] == [r[:4] for r in expected]
    np.testing.assert_allclose([r[4:] for r in found], [r[4:] for r in expected], atol=1e-6)


def some_vectors(seed, items):
    """One item without a vector, one with a zero vector, one tie of cosines."""
    rng = np.random.default_rng(seed)
    by_item = {i: rng.normal(size=4).tolist() for i in range(1, items)}
    by_item |= {2: [0.0] * 4, 3: [1.0, 2.0, 3.0, 4.0], 4: [2.0, 4.0, 6.0, 8.0]}
    return by_item


@settings(max_examples=80, deadline=None)
@given(
    log=st.builds(
        random_log,
        st.integers(0, 10**6),
        users=st.integers(1, 10),
        items=st.integers(1, 15),
        events=st.integers(1, 120),
    ),
    window=st.integers(1, 60),
    min_similarity=st.floats(-1, 1),
    size=st.integers(1, 50),
    targets=st.integers(1, 3),
)
def test_equals_the_definition_in_any_batches(log, window, min_similarity, size, targets):
    by_item = some_vectors(1, 15)

    def is_target(event):
        return event.seq % targets == 0

    found, tally = stream(log, by_item, window, min_similarity, size, is_target)
    expected, counts = reference.user2item(log, by_item, window, min_similarity, is_target)
    same(found, expected)
    assert tally == {name: counts.get(name, 0) for name in TARGET_COUNTS}


def test_spark_streams_whole_users_in_order(spark, frame, tiny_batches):
    log = random_log(9, users=12, items=15, events=220)
    by_item = some_vectors(9, 15)
    vectors = spark.createDataFrame(list(by_item.items()), "item_idx bigint, vector array<float>")
    events = frame(log).withColumn("is_target", F.col("seq") % 3 != 0)
    mined = mine_user2item(events, vectors, 5, 0.1)
    rows = mined.pairs.withColumn("ts", F.unix_micros("ts")).collect()
    expected, counts = reference.user2item(log, by_item, 5, 0.1, lambda e: e.seq % 3 != 0)
    same(sorted(tuple(row) for row in rows), expected)
    assert mined.tally() == {name: counts.get(name, 0) for name in TARGET_COUNTS}
    nobody = user2item(events, vectors.limit(0), 5, 0.1)
    assert nobody.columns == ["trigger", "target", "user_idx", "ts", "similarity", "weight"]
    assert nobody.isEmpty()


def test_equal_times_are_not_before():
    log = [Event(0, 1, 0, 0, 1.0), Event(0, 2, 0, 1, 1.0), Event(0, 3, 7, 2, 1.0)]
    found, tally = stream(log, {1: [1.0, 0.0], 2: [0.9, 0.1], 3: [0.8, 0.2]})
    assert [r[:2] for r in found] == [(2, 3)]
    assert tally["no_earlier_event"] == 2


def test_ties_go_to_the_latest_event_then_the_smallest_item():
    log = [
        *(Event(0, item, minute, 0, 1.0) for item, minute in ((5, 0), (4, 1), (3, 1), (6, 2))),
        *(Event(1, item, minute, 0, 1.0) for item, minute in ((1, 0), (5, 1), (2, 1), (6, 3))),
    ]
    found, _ = stream(log, {i: [1.0, 2.0] for i in range(1, 7)})
    assert [(r[0], r[2]) for r in found if r[1] == 6] == [(2, 1), (3, 0)]


def test_the_target_is_never_its_own_trigger():
    log = [Event(0, 1, minute, minute, 1.0) for minute in range(4)]
    found, tally = stream(log, {1: [1.0, 0.0]})
    assert found == []
    assert tally == dict(zip(TARGET_COUNTS, (4, 0, 1, 3, 0), strict=True))


def test_vectors_of_different_lengths_are_refused():
    log = [Event(0, 1, 0, 0, 1.0), Event(0, 2, 1, 1, 1.0)]
    with pytest.raises(ValueError, match="must have 2 numbers like the first"):
        stream(log, {1: [1.0, 0.0], 2: [1.0]})


def test_kernel_holds_no_more_than_the_window_of_a_long_user():
    n, window = 20_000, 3
    item = np.arange(n) % 7
    units, _ = unit_rows(np.eye(7, dtype=np.float32) + 0.1)
    state = new_state(window, 7)
    ones = np.ones(n, bool)
    user = np.zeros(n, np.int64)
    whole = find_triggers(user, item, np.arange(n), ones, item, units, -1.0, state)
    assert state.window_vector.shape == (window, 7)
    assert (whole[2][1:] == PAIR).all()
    np.testing.assert_array_equal(whole[0][1:], (item[1:] - 1) % 7)  # all equal: the latest


def test_pairs_are_counted_averaged_and_capped(spark):
    rows = spark.createDataFrame(
        [
            (1, 9, 0, 10, 0.5, 1.0),
            (1, 9, 0, 30, 0.7, 2.0),
            (1, 9, 4, 20, 0.0, 1.0),
            (2, 9, 0, 10, 0.9, 1.0),
            (3, 9, 1, 10, 0.9, 1.0),
            (4, 9, 2, 10, 0.1, 1.0),
            (4, 8, 2, 10, 0.1, 1.0),
        ],
        "trigger bigint, target bigint, user_idx bigint, ts bigint, similarity double, "
        "weight double",
    ).withColumn("ts", F.timestamp_seconds("ts"))
    pairs = cap_user2item(pair_user2item(user_pairs(rows)), 2)
    pairs = pairs.withColumn("last_ts", F.unix_seconds("last_ts"))
    found = {(r["trigger"], r["target"]): r for r in pairs.collect()}
    assert set(found) == {(1, 9), (2, 9), (4, 8)}  # support first, then score, then the trigger
    best = found[1, 9]
    assert math.isclose(best["score"], 0.4, abs_tol=1e-9)
    assert (best["support"], best["weight"], best["last_ts"]) == (2, 4.0, 30)
    by_day = user_pairs(rows.withColumn("day", F.to_date("ts")), "day")  # partial results add up
    assert sorted(cap_user2item(pair_user2item(by_day), 2).collect()) == sorted(
        cap_user2item(pair_user2item(user_pairs(rows)), 2).collect()
    )
