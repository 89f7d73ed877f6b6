"""``--as-of``: what was known then is mined, in whatever order the dates are asked for."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from pyspark.sql import functions as F

from qarm.errors import InputError
from qarm.pairs.itemcf_days import plan_days
from qarm.pipeline import own_tables
from qarm.stages.mine_pairs import run

from .reference import EPOCH, Event, random_log
from .test_itemcf_days import days, spread

FIRST = EPOCH.replace(tzinfo=None)
SOURCES = ["u2i", "swing", "itemcf"]
U2I = {"window": 4}
SWING = {"min_items_per_user": 2, "max_items_per_user": 9, "max_users_per_item": 6}
SWING |= {"min_support": 1, "top_k": 5}
OF_DAYS = {"by_day": True, "window_days": 1.0, "half_life_days": 2.0, "history_days": 3}
OF_USERS = {"counts": "users", "half_life_days": 2.0, "history_days": 3, "window_events": 4}
#: Partial tables; what a run leaves in them is what the next one starts from.
TABLES = (
    *("u2i_days", "u2i_counted", "swing_scored", "swing_items"),
    *("itemcf_days", "itemcf_item_days", "itemcf_counted"),
    *("itemcf_user_counts", "itemcf_user_lists"),
)
#: Hashes of settings, which name the lake, and versions of tables.
_NO_RESULT = ("miner_version", "counted_with", "scored_with", "counts_version")


@pytest.fixture
def lake_of(make_context, spark, tmp_path):
    """A context of its own lake, with ID vectors that stay from night to night."""
    vectors = str(tmp_path / "vectors")
    rows = [(i, [1.0, float(i), float(i * i % 5)]) for i in range(12)]
    spark.createDataFrame(rows, "item_idx long, vector array<double>").write.parquet(vectors)

    def make(name: str, incremental: bool = False, itemcf: dict | None = None, sources=SOURCES):
        itemcf = itemcf or {}
        more = {"incremental": incremental}
        own = more if "counts" in itemcf else {}
        context = make_context(
            "mine-pairs",
            lake=str(tmp_path / name),
            pairs={
                "sources": sources,
                "estimate_mass_lost": False,
                "u2i": {**U2I, **more},
                "swing": {**SWING, **more},
                "itemcf": {**itemcf, **own, "top_k": 5},
            },
            external={"tables": {"id_vectors": vectors}},
        )
        own_tables.adopt(context)
        return context

    return make


def mine(context, as_of: datetime | None):
    """A run as of an instant: all pairs, and the result."""
    context.as_of = as_of
    for name in TABLES:
        context.outputs.pop(name, None)
    result = run(context)
    for ledger in result.ledgers:
        ledger.close("mine-pairs")
    return sorted(map(tuple, context.table("item_pairs").drop(*_NO_RESULT).collect())), result


def partials(context) -> dict[str, list]:
    return {
        name: sorted(map(tuple, context.table(name).drop(*_NO_RESULT).collect()))
        for name in TABLES
        if name in context.outputs
    }


def test_events_strictly_before_the_instant_are_all_that_is_mined(lake_of, fill):
    """The one at the instant is future, as it is for ingest."""
    log = spread(random_log(4, users=15, items=12, events=160), 60)
    log += [Event(0, 1, 2880, 998, 1.0), Event(0, 2, 2880, 999, 1.0)]
    context = lake_of("then", sources=["itemcf"])
    mined = fill(context, log, train_until=10_000)
    then = FIRST + timedelta(days=2)
    found, result = mine(context, then)
    (ledger,) = (each for each in result.ledgers if each.name.startswith("positive events"))
    known = [e for e in mined if e.minute < 2880]
    assert (ledger.rows_in, ledger.rows_out) == (len(mined), len(known))
    assert ledger.dropped == {"removed_item": 0, "at_or_after_as_of": len(mined) - len(known)}
    ends = context.table("item_pairs").select(F.max("window_end"), F.max("last_ts")).first()
    assert ends[1] < ends[0] <= then

    short = lake_of("short", sources=["itemcf"])
    fill(short, [e for e in log if e.minute < 2880], train_until=10_000)
    assert mine(short, None)[0] == found
    one_later, _ = mine(context, then + timedelta(microseconds=1))
    assert one_later != found
    whole, result = mine(context, None)
    (ledger,) = (each for each in result.ledgers if each.name.startswith("positive events"))
    assert ledger.dropped == {"removed_item": 0}
    assert whole != one_later


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sources", "itemcf"),
    [(["u2i", "itemcf"], OF_DAYS), (["itemcf"], OF_USERS)],
    ids=["by_day", "by_user"],
)
def test_going_back_in_time_equals_a_recompute(lake_of, fill, sources, itemcf):
    """The partial tables too, so that nights after it are as those of ``test_incremental``."""
    log = spread(random_log(8, users=20, items=12, events=260), 60)
    log = [e for e in log if not 1440 <= e.minute < 2880]  # a day without events

    def as_of(context, day: int):
        """The log of that night: it knows the day before, and days up to the latest night's."""
        fill(context, [e for e in log if e.minute < max(day, 6) * 1440], train_until=100_000)
        return mine(context, FIRST + timedelta(days=day))[0]

    nightly = lake_of("nightly", True, itemcf, sources)
    as_of(nightly, 6)
    found = as_of(nightly, 4)
    fresh = lake_of("fresh", True, itemcf, sources)
    assert as_of(fresh, 4) == found
    assert partials(fresh) == partials(nightly)
    assert len(partials(fresh)) == (2 if itemcf is OF_USERS else 5)
    if itemcf is OF_USERS:
        recomputed = as_of(lake_of("plain", False, itemcf, sources), 4)
        assert [row[:3] for row in recomputed] == [row[:3] for row in found]
        for there, here in zip(recomputed, found, strict=True):
            assert there[5:8] == pytest.approx(here[5:8], rel=1e-9)  # score, support, weight
            assert there[8] == here[8]  # last_ts


def test_days_that_were_only_reached_into_count_again_when_time_goes_back():
    now = dict.fromkeys(days(1, 2, 3), (3, "a"))  # nothing on day 0
    before = dict.fromkeys(days(1, 2, 3, 4), (3, "a", "v"))  # of which day 2 and later counted
    assert plan_days(now, before, "v", 1.0, history_days=3)[1:] == (days(1), days(4))
    assert plan_days(now, before, "v", 1.0, history_days=2)[1:] == (days(2), days(1, 4))


@pytest.mark.parametrize("as_of", [FIRST, FIRST - timedelta(days=9)])
def test_a_date_before_all_events_says_so_and_publishes_nothing(lake_of, fill, as_of):
    context = lake_of("early")
    fill(context, [Event(0, i, i, i, 1.0) for i in range(4)])
    with pytest.raises(InputError, match=r"no event is known as of .* \(--as-of\): the first") as e:
        mine(context, as_of)
    assert "2020-01-01T00:00:00" in str(e.value)
    assert "item_pairs" not in context.outputs
    assert context.lake.version("item_pairs") == -1
