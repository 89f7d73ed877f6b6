"""Users' lists, without Spark: cut in map tasks, they are what one cut of everything leaves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.kernels.user_lists import group
from qarm.pairs import lists, tally
from qarm.pairs.lists import DistinctItems, LatestEvents

from .reference import Event, random_log
from .test_blocks import batches_of, listed


def read(packed: list[pa.RecordBatch]) -> dict[int, dict]:
    """User -> row of its list; a user comes once."""
    rows = {}
    for row in pa.Table.from_batches(packed).to_pylist():
        assert row["user_idx"] not in rows
        entries = np.frombuffer(row["entries"], lists.RECORD)
        rows[row["user_idx"]] = {**row, "entries": entries.tolist()}
    return rows


def by_user(log: list[Event]) -> dict[int, list[Event]]:
    users: dict[int, list[Event]] = {}
    for event in log:
        users.setdefault(event.user, []).append(event)
    return users


def micros(event: Event) -> int:
    return int(event.seconds * 1e6)


logs = st.builds(
    random_log,
    st.integers(0, 10**6),
    users=st.integers(1, 12),
    items=st.integers(1, 10),
    events=st.integers(1, 120),
)


@pytest.fixture(params=[5, 1 << 20], ids=["packed every five events", "packed at once"])
def held(request, monkeypatch):
    monkeypatch.setattr(lists, "_HELD_EVENTS", request.param)
    monkeypatch.setattr(lists, "_MERGED_EVENTS", 1)


@pytest.mark.usefixtures("held")
def test_latest_events_are_those_of_the_whole_log():
    @settings(max_examples=60, deadline=None)
    @given(log=logs, most=st.integers(1, 15), tasks=st.integers(1, 4))
    def check(log, most, tasks):
        found = read(listed(log, LatestEvents(most), tasks))
        assert set(found) == set(by_user(log))
        for user, events in by_user(log).items():
            order = sorted(events, key=lambda e: (e.seq, micros(e), -e.item, -e.weight))
            kept = [(e.item, k, micros(e), e.weight) for k, e in enumerate(order[-most:])]
            row = found[user]
            assert row["entries"] == kept
            assert (row["events"], row["kept_events"]) == (len(events), len(kept))

    check()


@pytest.mark.usefixtures("held")
def test_distinct_items_are_those_of_the_whole_log():
    @settings(max_examples=60, deadline=None)
    @given(
        log=logs,
        least=st.integers(0, 4),
        most=st.integers(2, 8),
        drop=st.booleans(),
        tasks=st.integers(1, 4),
    )
    def check(log, least, most, drop, tasks):
        found = read(listed(log, DistinctItems(least, most, drop), tasks))
        for user, events in by_user(log).items():
            items: dict[int, list[Event]] = {}
            for event in events:
                items.setdefault(event.item, []).append(event)
            last = {item: max(map(micros, each)) for item, each in items.items()}
            kept = sorted(items, key=lambda item: (-last[item], item))[:most]
            if len(items) < least or (drop and len(items) > most):
                kept = []
            row = found[user]
            entries = row["entries"]
            assert [(item, n, ts) for item, n, ts, _ in entries] == [
                (item, len(items[item]), last[item]) for item in sorted(kept)
            ]
            weights = [sum(e.weight for e in items[item]) for item in sorted(kept)]
            assert [w for *_, w in entries] == pytest.approx(weights)
            assert (row["events"], row["found"]) == (len(events), len(items))
            assert row["kept_events"] == sum(len(items[item]) for item in kept)

    check()


def test_a_user_with_a_million_events_is_cut_before_the_shuffle():
    n = 1_100_000
    log = pa.table(
        {
            "user_idx": np.zeros(n, np.int64),
            "item_idx": np.arange(n) % 50_000,
            "ts": np.zeros(n, np.int64),  # all at one time: seq decides
            "seq": np.random.default_rng(0).permutation(n),
            "weight": np.ones(n),
        }
    )
    parts = list(lists.stream_parts(log.to_batches(10_000), LatestEvents(1000), np.arange(2)))
    shuffled = sum(len(value) for part in parts for value in part["rows"].to_pylist())
    assert shuffled == len(parts) * 1000 * lists._PART.itemsize
    one = [p for p in parts if p["users"].to_pylist()]
    (row,) = read(list(lists.stream_lists(one, LatestEvents(1000)))).values()
    assert (row["events"], row["found"], row["kept_events"]) == (n, n, 1000)
    newest = np.argsort(log["seq"].to_numpy())[-1000:]
    assert [item for item, *_ in row["entries"]] == log["item_idx"].to_numpy()[newest].tolist()


@pytest.mark.parametrize("item", [-1, 2**31])
def test_an_item_that_is_no_index_is_refused(item):
    batches = batches_of([Event(1, item, 0, 0, 1.0)])
    with pytest.raises(ValueError, match=rf"from 0 to 2147483647.*seen {item}"):
        list(lists.stream_parts(batches, LatestEvents(3), np.arange(2)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**40), 2**62), min_size=1, max_size=60))
def test_rows_are_grouped_by_user(users):
    found, bounds, order = group(np.array(users))
    assert found.tolist() == sorted(set(users))
    grouped = {u: order[a:b].tolist() for u, a, b in zip(found, bounds, bounds[1:], strict=False)}
    assert grouped == {u: [k for k, v in enumerate(users) if v == u] for u in set(users)}


def test_items_are_added_up_over_flushes(monkeypatch):
    monkeypatch.setattr(tally, "_TALLIED_ENTRIES", 7)
    log = random_log(5, users=9, items=6, events=80)
    packed = [b.select(["entries"]) for b in listed(log, DistinctItems(0, 100, False))]
    rows = list(tally.stream_item_tally(packed))
    assert len(rows) > 2
    sums: dict[int, list[float]] = {}
    for row in pa.Table.from_batches(rows).to_pylist():
        total = sums.setdefault(row["item_idx"], [0, 0, 0.0])
        for k, name in enumerate(("entries", "events", "weight")):
            total[k] += row[name]
    for item in {e.item for e in log}:
        events = [e for e in log if e.item == item]
        entries, count, weight = sums[item]
        assert (entries, count) == (len({e.user for e in events}), len(events))
        assert weight == pytest.approx(sum(e.weight for e in events))
