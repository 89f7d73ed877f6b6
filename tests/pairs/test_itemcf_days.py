"""ItemCF by day: the definition, and that a run that counts little equals one that counts all."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from qarm.config.pairs import ItemCF
from qarm.kernels.cooccurrence_days import UNITS, list_cooccurrences
from qarm.pairs.itemcf_days import count_days, describe_days, plan_days, score_days

from . import reference
from .collected import same_top
from .reference import Event, Pair, random_log

DAY = date(2020, 1, 1)


def days(*numbers: int) -> list[date]:
    return [DAY + timedelta(days=n) for n in numbers]


def spread(log: list[Event], minutes: int) -> list[Event]:
    """The log over several days."""
    return [event._replace(minute=event.minute * minutes) for event in log]


def test_what_is_counted_anew():
    now = dict.fromkeys(days(0, 1, 2, 4, 5), (3, "a"))
    before = dict.fromkeys(days(0, 1, 2, 4, 5), (3, "a", "v"))
    assert plan_days(now, before, "v", 1.0)[1:] == ([], [])
    assert plan_days(now, before, "w", 1.0)[1:] == (days(0, 1, 2, 4, 5), [])
    late = {**now, days(1)[0]: (4, "b")}
    assert plan_days(late, before, "v", 0.5).todo == days(1, 2)
    assert plan_days(late, before, "v", 3.0).todo == days(1, 2, 4)
    gone = {day: facts for day, facts in now.items() if day != days(4)[0]}
    assert plan_days(gone, before, "v", 1.0)[1:] == (days(5), days(4))
    new = {**now, days(6)[0]: (1, "c")}
    assert plan_days(new, before, "v", 1.0)[1:] == (days(6), [])
    assert plan_days({}, {}, "v", 1.0) == ({}, [], [])


def test_an_old_day_leaves_without_touching_the_rest_but_late_events_in_it_still_count():
    now = dict.fromkeys(days(0, 1, 2, 3, 4), (3, "a"))
    before = dict.fromkeys(days(0, 1, 2, 3), (3, "a", "v"))
    plan = plan_days(now, before, "v", 1.0, history_days=3)
    assert plan[1:] == (days(4), days(0, 1))
    assert sorted(plan.now) == days(1, 2, 3, 4)  # day 2 reaches into day 1
    late = {**now, days(1)[0]: (4, "b")}
    assert plan_days(late, before, "v", 1.0, history_days=3).todo == days(2, 4)
    older = {**now, days(0)[0]: (4, "b")}
    assert plan_days(older, before, "v", 1.0, history_days=3).todo == days(4)


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


@pytest.mark.parametrize("normalization", ["cosine", "bm25"])
def test_scores_equal_the_definition(frame, tiny_batches, normalization):
    log = spread(random_log(3, users=20, items=12, events=200), 60)
    config = ItemCF(
        by_day=True, window_events=6, window_days=1.5, half_life_days=3.0, min_support=2, top_k=4,
        normalization=normalization,
    )  # fmt: skip
    events = frame(log)
    found_days = describe_days(events)
    assert sum(n for n, _ in found_days.values()) == len(log)
    parts = [
        count_days(events, config, some)
        for some in (sorted(found_days)[:3], sorted(found_days)[3:])
    ]
    pair_days, item_days = (a.unionByName(b) for a, b in zip(*parts, strict=True))
    pairs, tally = score_days(
        pair_days, item_days, config, max(found_days), lambda df: df.persist()
    )
    found = {
        (r["trigger"], r["target"]): Pair(r["score"], r["support"], r["weight"], r["last"])
        for r in pairs.withColumn("last", F.unix_seconds("last_ts")).collect()
    }
    everything = reference.itemcf(log, config.model_copy(update={"min_support": 1}))
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
    config = ItemCF(by_day=True, window_days=2.0, window_events=1, max_events_per_user=2)
    pairs, weights = count_days(frame(log), config, days(0, 1))
    found = {(r["day"], r["trigger"], r["target"], r["events"]) for r in pairs.collect()}
    zero, one = days(0, 1)
    assert found == {(zero, 4, 5, 1), (one, 5, 7, 1), (one, 7, 8, 1)}
    assert {r["item_idx"] for r in weights.collect()} == {4, 5, 7, 8}


def test_needs_a_window_in_days():
    with pytest.raises(ValueError, match="by_day needs window_days above 0"):
        ItemCF(by_day=True)
