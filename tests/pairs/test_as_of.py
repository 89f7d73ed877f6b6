"""``--as-of``: only what was known then is mined."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from pyspark.sql import functions as F

from qarm.errors import InputError
from qarm.pairs.mined_events import (
    describe,
    known_events,
    nothing_to_mine,
    of_live_items,
    window_end,
)
from qarm.stages.mine_pairs import run

from .reference import EPOCH, Event, random_log
from .test_itemcf_days import spread

FIRST = EPOCH.replace(tzinfo=None)
PAIRS = {"sources": ["itemcf"], "itemcf": {"top_k": 5}}


def mine(context, as_of: datetime | None):
    """A run as of an instant: all pairs, and the ledger of events."""
    context.as_of = as_of
    result = run(context)
    for ledger in result.ledgers:
        ledger.close("mine-pairs")
    (ledger,) = (each for each in result.ledgers if each.name.startswith("positive events"))
    rows = context.table("item_pairs").drop("miner_version").collect()
    return sorted(map(tuple, rows)), ledger


def test_events_strictly_before_the_instant_are_all_that_is_mined(make_miner, fill, tmp_path):
    """An event at the instant is future, as it is for ingest."""
    log = spread(random_log(4, users=10, items=12, events=90), 60)
    log += [Event(0, 1, 2880, 998, 1.0), Event(0, 2, 2880, 999, 1.0)]
    context = make_miner(pairs=PAIRS)
    mined = fill(context, log, train_until=10_000)
    then = FIRST + timedelta(days=2)
    found, ledger = mine(context, then)
    known = [e for e in mined if e.minute < 2880]
    assert (ledger.rows_in, ledger.rows_out) == (len(mined), len(known))
    assert ledger.dropped == {"removed_item": 0, "at_or_after_as_of": len(mined) - len(known)}
    ends = context.table("item_pairs").select(F.max("window_end"), F.max("last_ts")).first()
    assert ends[1] < ends[0] <= then

    short = make_miner(pairs=PAIRS, lake=str(tmp_path / "short"))
    fill(short, [e for e in log if e.minute < 2880], train_until=10_000)
    assert mine(short, None)[0] == found


def test_a_date_before_all_events_says_so_and_publishes_nothing(make_miner, fill):
    context = make_miner(pairs=PAIRS)
    fill(context, [Event(0, i, i, i, 1.0) for i in range(4)])
    said = r"no event is known as of .* \(--as-of\): the first"
    for as_of in (FIRST, FIRST - timedelta(days=9)):
        with pytest.raises(InputError, match=said) as e:
            mine(context, as_of)
        assert "2020-01-01T00:00:00" in str(e.value)
    assert "item_pairs" not in context.outputs
    assert context.lake.version("item_pairs") == -1


def test_events_are_cut_described_and_explained(frame, without_item):
    events = frame([Event(0, i, i, i, 1.0) for i in range(4)] + [Event(1, 2, 9, 0, 1.0)])
    assert known_events(events, None) is events
    then = FIRST + timedelta(minutes=2)
    assert known_events(events, then).count() == 2
    assert known_events(events, then + timedelta(microseconds=1)).count() == 3
    assert describe(of_live_items(events, without_item(2))) == {
        "events": 3,
        "users": 1,
        "items": 3,
        "end": "2020-01-01T00:03:00.000001",
    }
    assert "(part mine of the split)" in nothing_to_mine(events.limit(0), ["mine"], FIRST)
    assert "no event is known as of" in nothing_to_mine(events, ["mine"], FIRST)


def test_the_window_ends_with_the_split_or_the_last_event_but_not_after_the_instant():
    facts = {"has_mine": False, "train_end": "2020-01-05T00:00:00+00:00", "mine_end": None}
    last = "2020-01-03T00:00:00"
    assert window_end(facts, last, None) == datetime(2020, 1, 5)
    assert window_end({**facts, "has_mine": True}, last, None) == datetime(2020, 1, 3)
    assert window_end({}, last, None) == datetime(2020, 1, 3)
    assert window_end(facts, last, datetime(2020, 1, 4)) == datetime(2020, 1, 4)
    assert window_end(facts, "2020-01-07T00:00:00", None) == datetime(2020, 1, 7)
