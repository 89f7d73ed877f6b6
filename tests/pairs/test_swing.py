"""Swing through Spark: golden values, caps, sampling. The formula itself: test_blocks.py."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from qarm.config.pairs import Swing
from qarm.pairs.swing import mine_swing, swing

from . import reference
from .collected import collect, same, same_top
from .reference import Event, random_log


def of_lists(lists):
    return [Event(u, i, k, k, 1.0) for u, items in lists.items() for k, i in enumerate(items)]


def test_golden_value_of_alink(frame):
    log = of_lists({1: [11, 12], 2: [11, 12], 3: [12, 13], 4: [13, 14], 5: [14, 15], 6: [15, 16]})
    config = Swing(alpha1=5, alpha2=1, beta=-0.35, min_items_per_user=0)
    rows = swing(frame(log), config, seed=0).collect()
    scores = {(r["trigger"], r["target"]): r["score"] for r in rows}
    assert scores == pytest.approx({(11, 12): 1.3015096, (12, 11): 1.3015096}, abs=5e-8)
    assert scores[11, 12] == scores[12, 11]


def test_golden_value_of_flink(frame, keep):
    log = of_lists(
        {0: [10, 11, 12], 2: [10, 11, 12], 1: [12, 13], 3: [12, 13], 4: [10, 11, 12, 13]}
    )
    config = Swing(min_items_per_user=2, max_items_per_user=3, over_cap="drop")
    mined = mine_swing(frame(log), config, seed=0, keep=keep)
    found, tally = collect(mined)
    low, high = 0.058845768947, 0.091348338282
    golden = {(10, 11): low, (10, 12): low, (11, 12): low, (12, 13): high}
    golden |= {(j, i): score for (i, j), score in golden.items()}
    assert {key: pair.score for key, pair in found.items()} == pytest.approx(golden, abs=1e-12)
    assert tally == {"scored": 8, "below_min_support": 0, "beyond_top_k": 0}
    assert mined.skew["users_capped"] == 1
    assert mined.skew["share_of_events_lost_to_user_cap"] == pytest.approx(4 / 14)


@pytest.mark.parametrize("over_cap", ["latest", "drop"])
def test_caps_of_users_equal_the_definition(frame, tiny_batches, over_cap, keep):
    log = random_log(2, users=20, items=18, events=220)
    config = Swing(
        min_items_per_user=4, max_items_per_user=9, over_cap=over_cap, alpha2=2.0, min_support=1
    )
    mined = mine_swing(frame(log), config, seed=0, keep=keep)
    expected = reference.swing(log, config, lambda item, users: users)
    assert len(expected) > 20
    assert mined.skew["users_below_min_items"] > 0
    assert mined.skew["users_capped"] > 1
    same(collect(mined)[0], expected)


def test_sampled_scores_equal_the_definition_and_are_symmetric_and_repeatable(
    spark, frame, tiny_batches, keep
):
    log = random_log(4, users=40, items=12, events=300)
    config = Swing(min_items_per_user=0, max_users_per_item=7, min_support=3, top_k=5)
    users = spark.range(40).select("id", F.xxhash64(F.lit(5), F.col("id")).alias("hash"))
    hashes = {row["id"]: row["hash"] for row in users.collect()}

    def keeps(item, users):
        return set(sorted(users, key=hashes.get)[:7])

    mined = mine_swing(frame(log), config, seed=5, keep=keep)
    found, tally = collect(mined)
    everything = reference.swing(log, config.model_copy(update={"min_support": 1}), keeps)
    supported = {key: pair for key, pair in everything.items() if pair.support >= 3}
    same_top(found, supported, 5)
    assert tally == {
        "scored": len(everything),
        "below_min_support": len(everything) - len(supported),
        "beyond_top_k": len(supported) - len(found),
    }
    assert min(tally.values()) > 0
    assert mined.skew["items_capped"] > 3
    assert mined.skew["share_of_events_lost_to_item_cap"] > 0.1
    both = [(i, j) for i, j in found if (j, i) in found]
    assert len(both) > 10
    assert all(found[i, j].score == found[j, i].score for i, j in both)
    again, _ = collect(mine_swing(frame(log[::-1]).repartition(7), config, seed=5, keep=keep))
    assert again == found


def test_one_user_or_nothing_in_common_gives_no_pairs(frame, keep):
    log = of_lists({0: [1, 2, 3], 1: [4], 2: [5], 3: [6]})
    events = frame(log).drop("seq")  # Swing needs none
    mined = mine_swing(events, Swing(min_items_per_user=0), seed=0, keep=keep)
    assert collect(mined) == ({}, {"scored": 0, "below_min_support": 0, "beyond_top_k": 0})
