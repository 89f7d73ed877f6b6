"""Sampled negatives: what may be drawn, what may not, and that draws repeat."""

from __future__ import annotations

from collections import Counter

import pytest
from pyspark.sql import functions as F

from qarm.ranking import impressions, negatives, rates
from tests.lakes.ranking import START_SECOND, Event, random_log, tables

PER_POSITIVE = 3


def draw(positives, numbers, **options):
    """Negatives with their items, as the stage joins them."""
    return negatives.with_items(negatives.draw_numbers(positives, numbers, **options), numbers)


@pytest.fixture(scope="module")
def drawn(spark, log):
    """Rows of ``draw``, twice, with other partitions the second time."""
    events = impressions.prepare_events(*tables(spark, log), ["positive"])
    runs = []
    for partitions in (1, 5):
        shuffled = events.repartition(partitions, F.rand(partitions))
        totals = rates.totals_before(shuffled)
        numbers = negatives.numbered_items(shuffled, totals)
        known = rates.with_totals(shuffled, totals)
        frame = draw(
            known.where("positive").withColumn("wanted", F.col("item_idx") != 1),
            numbers,
            per_positive=PER_POSITIVE,
            seed=1,
            keep=("part",),
        )
        runs.append(sorted(tuple(row) for row in frame.collect()))
        names = frame.columns
    assert runs[0] == runs[1]
    return [dict(zip(names, row, strict=True)) for row in runs[0]]


def test_numbers_follow_the_order_of_appearance(spark, log):
    events = impressions.prepare_events(*tables(spark, log), ["positive"])
    rows = negatives.numbered_items(events, rates.totals_before(events)).collect()
    first = {}
    for e in log:
        first[e.item] = min(first.get(e.item, e.second), e.second)
    order = sorted(first, key=lambda item: (first[item], item))
    assert {row["item_idx"]: row["item_number"] for row in rows} == {
        item: number for number, item in enumerate(order)
    }


def test_negatives_were_seen_by_then_and_are_not_in_the_basket(log, drawn):
    first = {}
    baskets = {}
    for e in log:
        first[e.item] = min(first.get(e.item, e.second), e.second)
        if e.positive:
            baskets.setdefault((e.user, START_SECOND + e.second), set()).add(e.item)
    assert drawn
    for row in drawn:
        second = row["ts"] // 1_000_000
        assert START_SECOND + first[row["item_idx"]] < second
        assert row["positive_item_idx"] in baskets[row["user_idx"], second]
        assert row["item_idx"] not in baskets[row["user_idx"], second]
        assert row["positive_item_idx"] != 1  # not wanted
    some = {(r["user_idx"], r["item_idx"]) for r in drawn}
    bought = {(e.user, e.item) for e in log if e.positive}
    assert some & bought  # what the user bought at another time is not left out


def test_each_positive_has_distinct_negatives_as_many_as_there_can_be(log, drawn):
    of = {}
    for row in drawn:
        key = (row["user_idx"], row["positive_item_idx"], row["ts"])
        of.setdefault(key, []).append(row["item_idx"])
    for items in of.values():
        assert len(items) == len(set(items)) <= PER_POSITIVE
    late = [e for e in log if e.positive and e.item != 1 and e.second >= 20]
    full = [len(of[e.user, e.item, (START_SECOND + e.second) * 1_000_000]) for e in late]
    assert min(full) == PER_POSITIVE


def test_draws_are_even(spark):
    """A thousand positives after 10 items were seen: each is drawn about as often."""
    log = [Event(0, item, 0, 1, "train") for item in range(10)]
    log += [Event(user, 99, 1, 5, "train") for user in range(1000)]
    events = impressions.prepare_events(*tables(spark, log), ["positive"])
    totals = rates.totals_before(events)
    frame = draw(
        rates.with_totals(events, totals).where("positive").withColumn("wanted", F.lit(True)),
        negatives.numbered_items(events, totals),
        per_positive=2,
        seed=0,
    )
    counts = Counter(row["item_idx"] for row in frame.collect())
    assert set(counts) == set(range(10))  # 99 is in every basket
    assert sum(counts.values()) == 2000
    assert all(abs(n - 200) < 5 * 13 for n in counts.values())


def test_seed_moves_the_draws(spark):
    events = impressions.prepare_events(*tables(spark, random_log(seed=5)), ["positive"])
    totals = rates.totals_before(events)
    numbers = negatives.numbered_items(events, totals)
    known = rates.with_totals(events, totals)
    positives = known.where("positive").withColumn("wanted", F.lit(True))

    def drawn(seed: int) -> set[tuple]:
        rows = draw(positives, numbers, per_positive=2, seed=seed)
        return {tuple(row) for row in rows.collect()}

    assert drawn(0) != drawn(1)
