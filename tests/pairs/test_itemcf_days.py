"""ItemCF by day: the definition, and that a run that counts little equals one that counts all."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from qarm.config.pairs import ItemCF, Pairs
from qarm.kernels.cooccurrence_days import UNITS, list_cooccurrences
from qarm.pairs.itemcf_days import count_days, describe_days, fingerprint_days, score_days

from . import reference
from .collected import same_top
from .reference import Event, Pair, random_log

DAY = date(2020, 1, 1)


def days(*numbers: int) -> list[date]:
    return [DAY + timedelta(days=n) for n in numbers]


def spread(log: list[Event], minutes: int) -> list[Event]:
    """The log over several days."""
    return [event._replace(minute=event.minute * minutes) for event in log]


def test_a_day_is_marked_by_the_days_that_it_reaches_into():
    now = dict.fromkeys(days(0, 1, 2, 4, 5), "a")
    before = fingerprint_days(now, 1.0, "v")
    assert len(set(before.values())) == 5

    def differ(now, window=1.0, mark="v"):
        there = fingerprint_days(dict.fromkeys(before, "a"), window, "v")
        return [day for day, hashed in fingerprint_days(now, window, mark).items()
                if there.get(day) != hashed]  # fmt: skip

    assert differ(now) == []
    assert differ(now, mark="w") == days(0, 1, 2, 4, 5)
    late = {**now, days(1)[0]: "b"}
    assert differ(late, 0.5) == days(1, 2)
    assert differ(late, 3.0) == days(1, 2, 4)
    gone = {day: mark for day, mark in now.items() if day != days(4)[0]}
    assert differ(gone) == days(5)
    assert differ({**now, days(6)[0]: "c"}) == days(6)
    assert fingerprint_days({}, 1.0, "v") == {}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    window=st.integers(1, 20),
    window_days=st.sampled_from([0.3, 1.0, 2.5]),
    recency=st.floats(0.3, 1),
)
def test_days_add_up_to_the_definition(seed, window, window_days, recency):
    log = spread(random_log(seed, users=6, items=8, events=60), 120)
    ordered = sorted(log, key=lambda e: (e.user, e.seq))
    columns = {n: np.array([getattr(e, n) for e in ordered]) for n in ("user", "item", "weight")}
    ts = np.array([int(e.seconds * 1e6) for e in ordered])
    indptr = np.flatnonzero(np.diff(columns["user"], prepend=-1, append=-1)).astype(np.int64)
    day = ts // 86_400_000_000
    found: dict[tuple[int, int], float] = {}
    for today in np.unique(day):  # each day on its own
        out = list_cooccurrences(
            indptr, columns["item"], ts, columns["weight"], day, day == today,
            recency ** np.arange(window), int(window_days * 86_400_000_000),
        )  # fmt: skip
        assert set(out[0]) <= {today}
        for i, j, units in out[1:4].T.tolist():
            found[i, j] = found.get((i, j), 0) + units / UNITS
    config = ItemCF(window_events=window, window_days=window_days, recency=recency)
    expected = {p: x.weight for p, x in reference.itemcf(log, config).items() if p[0] < p[1]}
    assert found == pytest.approx(expected, abs=1e-6)


def test_scores_equal_the_definition(frame, tiny_batches):
    log = spread(random_log(3, users=20, items=12, events=200), 60)
    config = ItemCF(window_events=6, window_days=1.5, min_support=2, top_k=4)
    events = frame(log)
    found_days = describe_days(events)
    assert sum(int(mark.split()[0]) for mark in found_days.values()) == len(log)
    parts = [
        count_days(events, config, some)
        for some in (sorted(found_days)[:3], sorted(found_days)[3:])
    ]
    pair_days, item_days = (a.unionByName(b) for a, b in zip(*parts, strict=True))
    pairs, tally = score_days(pair_days, item_days, config, lambda df: df.persist())
    found = {
        (r["trigger"], r["target"]): Pair(r["score"], r["support"], r["weight"], r["last"])
        for r in pairs.withColumn("last", F.unix_seconds("last_ts")).collect()
    }
    everything = reference.itemcf(log, config.model_copy(update={"min_support": 1}), True)
    supported = {p: x for p, x in everything.items() if x.support >= 2}
    same_top(found, supported, 4)
    assert tally == {
        "scored": len(everything),
        "below_min_support": len(everything) - len(supported),
        "beyond_top_k": len(supported) - len(found),
    }


def test_caps_hold_for_each_user_and_day(frame):
    log = [Event(0, item, item, item, 1.0) for item in range(6)]
    log += [Event(0, item, 1440 + item, item, 1.0) for item in range(6, 9)]
    config = ItemCF(window_days=2.0, window_events=1, max_events_per_user=2)
    pairs, weights = count_days(frame(log), config, days(0, 1))
    found = {(r["day"], r["trigger"], r["target"], r["events"]) for r in pairs.collect()}
    zero, one = days(0, 1)
    assert found == {(zero, 4, 5, 1), (one, 5, 7, 1), (one, 7, 8, 1)}
    assert {r["item_idx"] for r in weights.collect()} == {4, 5, 7, 8}


def test_needs_a_window_in_days():
    with pytest.raises(ValueError, match=r"needs itemcf\.window_days above 0"):
        Pairs(incremental=["itemcf"])
    assert Pairs(incremental=["itemcf"], itemcf=ItemCF(window_days=1.0)).incremental == ["itemcf"]
