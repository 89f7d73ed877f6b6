"""The frame of incremental miners: what it recounts, and that a killed run does no harm."""

from __future__ import annotations

import itertools

import pytest
from pyspark.sql import functions as F

from qarm.lake.caching import Keeper
from qarm.lake.tables import Lake
from qarm.pairs.nightly import Miner, Recounted, Scratch, update
from qarm.pairs.scratch import ITEMCF_ITEMS, LEDGER
from schemas.table import Table, col

TOTALS = Table(
    name="totals",
    comment="Events per day",
    columns=(col("day", "date", "Day"), col("events", "bigint", "Events")),
    key=("day",),
)
MINER = Miner(name="toy", key=("day",), tables=(ITEMCF_ITEMS, TOTALS))


class Killed(Exception):
    """The process died."""


@pytest.fixture
def night(spark):
    """A run of a miner that adds up the events of each day: {day: {item: weight}}."""

    def run(lake: Lake, log: dict[int, dict[int, float]]):
        rows = [(f"2020-01-0{day}", i, w) for day, of in log.items() for i, w in of.items()]
        events = spark.createDataFrame(rows, "day string, item_idx bigint, weight double")
        events = events.withColumn("day", F.to_date("day"))
        sums = F.sum(F.xxhash64("item_idx", "weight").cast("decimal(20,0)")).cast("string")
        now = events.groupBy("day").agg(F.xxhash64(sums).alias("fingerprint"))

        def recount(changed):
            mine = events.join(changed, "day", "left_semi")
            totals = mine.groupBy("day").agg(F.count("*").alias("events"))
            return Recounted((mine, totals), {"counted": mine.count()})

        scratch = Scratch(lake=lake, lineage={"stage": "test"}, code_version="1")
        return update(scratch, MINER, now, recount, keep)

    with Keeper() as keep:
        yield run


def contents(night) -> list[list[tuple]]:
    return [sorted(map(tuple, table.collect())) for table in night.tables]


def versions(lake: Lake) -> list[int]:
    return [lake.version(table.name) for table in (*MINER.tables, LEDGER)]


FIRST = {1: {0: 1.0, 1: 2.0}, 2: {0: 3.0}}
LATER = {1: {0: 1.0, 1: 2.5}, 2: {0: 3.0}, 3: {2: 1.0}}


def test_only_changed_keys_are_recounted_and_a_quiet_night_writes_no_commit(night, lake):
    first = night(lake, FIRST)
    assert (first.recounted, first.left, first.tally) == (2, 0, {"counted": 3})
    before = versions(lake)
    again = night(lake, FIRST)
    assert (again.recounted, again.left, again.tally) == (0, 0, {})
    assert versions(lake) == before == [again.refs[t.name].version for t in (*MINER.tables, LEDGER)]
    assert contents(again) == contents(first)
    later = night(lake, LATER)
    assert (later.recounted, later.left, later.tally) == (2, 0, {"counted": 3})
    assert later.facts == {"keys_recounted": 2, "keys_left": 0}
    assert later.kept[1].count() == 1
    gone = night(lake, {2: LATER[2]})
    assert (gone.recounted, gone.left) == (0, 2)
    assert [len(rows) for rows in contents(gone)] == [1, 1]
    ledger = lake.read(gone.refs[LEDGER.name])
    assert [row["key"] for row in ledger.collect()] == ["2020-01-02"]


@pytest.mark.fire
def test_a_run_killed_between_any_two_commits_changes_no_later_run(night, lake, monkeypatch):
    """The next run may be of an earlier, the same or a later date; it equals that of a new lake."""
    same = {**LATER, 1: {0: 7.0}, 5: {3: 3.0}}
    later = {**LATER, 2: {5: 5.0}, 6: {1: 1.0}}
    cases = [(1, FIRST), (2, same), (3, later)]  # days leave, come, and change
    merge = Lake.merge
    night(lake, FIRST)
    for number, (commits, log) in enumerate(cases):
        done = itertools.count()

        def killed(*args, done=done, commits=commits, **keywords):
            if next(done) == commits:
                raise Killed
            return merge(*args, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(Lake, "merge", killed)
            with pytest.raises(Killed):
                night(lake, {**same, 4: {2: float(number)}})
        found = night(lake, log)
        expected = [
            [(day, item, weight) for day, of in log.items() for item, weight in of.items()],
            [(day, len(of)) for day, of in log.items()],
        ]
        seen = [[(row[0].day, *row[1:]) for row in rows] for rows in contents(found)]
        assert seen == [sorted(rows) for rows in expected], (commits, log)
        assert lake.read(found.refs[LEDGER.name]).where("fingerprint IS NULL").isEmpty()
