"""Each source night after night in one lake equals everything at once in a new one."""

from __future__ import annotations

import pytest

from qarm.config.pairs import Pairs
from qarm.lake.caching import Keeper
from qarm.lake.tables import Lake
from qarm.pairs import source_itemcf, source_swing, source_u2i, swing_items, u2i_days
from qarm.pairs.nightly import Scratch
from qarm.pairs.pair_sources import SOURCES
from qarm.pairs.scratch import LEDGER
from qarm.pairs.source_record import Inputs

from .reference import Event, random_log
from .test_itemcf_days import spread

CONFIG = Pairs.model_validate(
    {
        "u2i": {"window": 4},
        "itemcf": {"window_days": 1.0, "top_k": 5},
        "swing": {
            "min_items_per_user": 2,
            "max_items_per_user": 9,
            "max_users_per_item": 6,
            "top_k": 5,
        },
    }
)
SOURCE = {"u2i": source_u2i.SOURCE, "swing": source_swing.SOURCE, "itemcf": source_itemcf.SOURCE}
KEYS = {"u2i": ("user_idx", "day"), "swing": ("trigger",), "itemcf": ("day",)}


@pytest.fixture
def mine(spark, frame):
    """Mine a source from a log; all pairs, facts, and, if asked for, the scratch tables' rows."""
    rows = [(i, [1.0, float(i), float(i * i % 5)]) for i in range(12)]
    vectors = spark.createDataFrame(rows, "item_idx long, vector array<double>")

    def run(
        name: str,
        log: list[Event],
        lake: Lake | None = None,
        config: Pairs = CONFIG,
        tables: bool = True,
    ):
        scratch = None
        if lake is not None:
            scratch = Scratch(lake=lake, lineage={"stage": "test"}, code_version="1")
        with Keeper() as keep:
            events = keep(frame(log))
            found = SOURCES[name].mine(
                Inputs(events=events, vectors=vectors, config=config, keep=keep, scratch=scratch)
            )
            for ledger in found.ledgers:
                ledger.close("mine-pairs")
            pairs = sorted(map(tuple, found.pairs.collect()))
            assert len(pairs) == found.ledgers[-1].rows_out
        kept = {
            table: sorted(map(tuple, lake.read(ref).drop("fingerprint").collect()))
            for table, ref in found.scratch.items()
            if lake is not None and tables
        }
        return pairs, found.skew, kept

    return run


def before(log: list[Event], day: int) -> list[Event]:
    return [e for e in log if e.minute < day * 1440]


LOG = spread(random_log(8, users=14, items=12, events=130), 60)


@pytest.mark.parametrize("name", list(SOURCE))
def test_nights_with_late_events_and_takedowns_equal_a_new_lake(mine, lake, tmp_path, name):
    assert SOURCES[name] is SOURCE[name]
    late = Event(1, 3, 1440 + 5, 0, 1.0)
    missing = {e for e in LOG if e.user == 2 and e.minute < 2000}  # filled in later
    first = [e for e in LOG if e not in missing]

    def night(events: list[Event], day: int) -> tuple[int, int]:
        _, facts, _ = mine(name, before(events, day), lake, tables=False)
        return facts["keys_recounted"], facts["keys_left"]

    def keys_until(day: int) -> set:
        found = {(e.user, e.minute // 1440) for e in before(first, day)}
        return found if name == "u2i" else {of_user for _, of_user in found}

    everything, left = night(first, 4)
    assert everything == len(keys_until(4)) if name != "swing" else everything > 3
    # A late event moves what comes after it, two more days are new, and nothing else is counted.
    recounted, left = night([*first, late], 6)
    moved = {
        "u2i": {(1, day) for day in range(1, 6) if day == 1 or (1, day) in keys_until(6)},
        "itemcf": {1, 2},
    }
    if name == "swing":
        assert recounted > 0
    else:
        assert recounted == len(moved[name] | (keys_until(6) - keys_until(4)))
        assert recounted < len(keys_until(6))
        assert left == 0
    # An earlier --as-of, of a log that was filled in, without an erased user and a removed item.
    erased = [e for e in [*LOG, late] if e.user != 0 and e.item != 5]
    pairs, _, kept = mine(name, before(erased, 5), lake)
    assert all(kept.values())
    assert all(5 not in row[:2] for row in pairs)
    if name == "itemcf":  # by day it is another count; test_itemcf_days.py has its definition
        fresh = Lake(lake.spark, str(tmp_path / "fresh"))
        assert mine(name, before(erased, 5), fresh)[::2] == (pairs, kept)
        check_settings(mine, before(erased, 5), lake, pairs, kept)
    else:
        assert mine(name, before(erased, 5))[0] == pairs


def check_settings(mine, log: list[Event], lake: Lake, pairs: list[tuple], kept: dict) -> None:
    """What scores counts does not recount them; what counts does."""
    fewer = CONFIG.model_copy(
        update={"itemcf": CONFIG.itemcf.model_copy(update={"top_k": 1, "min_support": 2})}
    )
    best, facts, same = mine("itemcf", log, lake, fewer)
    assert facts["keys_recounted"] == 0
    assert same == kept
    assert len(best) < len(pairs)
    other = CONFIG.model_copy(
        update={"itemcf": CONFIG.itemcf.model_copy(update={"window_events": 1})}
    )
    days = len({e.minute // 1440 for e in log})
    assert mine("itemcf", log, lake, other)[1]["keys_recounted"] == days


def test_a_user_day_is_marked_by_all_earlier_events(frame):
    events = [Event(u, i, 1440 * i, i, 1.0) for u in range(2) for i in range(3)]
    moved = [*events[1:], Event(0, 7, 5, 0, 1.0)]  # the first user's first day
    marks = [
        {
            (row["user_idx"], row["day"].day): row["fingerprint"]
            for row in u2i_days.describe_user_days(frame(log), mark).collect()
        }
        for log, mark in ((events, "a"), (moved, "a"), (events, "b"))
    ]
    assert {key for key in marks[0] if marks[0][key] != marks[1][key]} == {(0, 1), (0, 2), (0, 3)}
    assert not set(marks[0].values()) & set(marks[2].values())


def test_each_miner_has_its_part_of_the_ledger():
    for name, source in SOURCES.items():
        assert source.can_be_incremental, name
    assert swing_items.MINER.key == KEYS["swing"]
    assert u2i_days.MINER.key == KEYS["u2i"]
    for miner in (swing_items.MINER, u2i_days.MINER):
        assert all(set(miner.key) <= set(table.column_names) for table in miner.tables)
    assert LEDGER.key == ("miner", "key")
