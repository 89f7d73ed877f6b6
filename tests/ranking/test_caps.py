"""Caps keep the latest seconds of train, and whole users of the other parts."""

from __future__ import annotations

from qarm.config.samples import Samples
from qarm.ranking import impressions
from qarm.ranking.caps import find_caps
from tests.lakes.ranking import START_SECOND, random_log, tables


def test_caps_keep_the_latest_and_whole_users(spark, log):
    events = impressions.prepare_events(*tables(spark, log), ["positive"]).cache()
    caps = find_caps(events, Samples(train_positives=60, eval_positives=10))
    marked = impressions.mark(events, "observed", caps, 0).collect()
    kept = [r for r in marked if r["dropped"] is None]
    train = [r for r in kept if r["part"] == "train"]
    oldest = min(r["ts"] for r in train)
    assert all(r["ts"] < oldest for r in marked if r["dropped"] == "over_train_cap")
    cut = [r["positive"] for r in train].count(True)
    second_before = max(
        r["ts"] for r in marked if r["dropped"] == "over_train_cap" and r["positive"]
    )
    more = sum(r["positive"] for r in marked if r["ts"] == second_before)
    assert cut <= 60 < cut + more
    for part in ("valid", "test"):
        users = {r["user_idx"] for r in kept if r["part"] == part}
        out = {r["user_idx"] for r in marked if r["part"] == part and r["dropped"] is not None}
        assert users
        assert out
        assert not users & out
        assert sum(r["positive"] for r in kept if r["part"] == part) <= 10 or len(users) == 1
    events.unpersist()


def test_one_second_above_the_cap_is_kept_whole(spark):
    log = [e for e in random_log(seconds=20, seed=1) if e.part == "train"]
    last = max(e.second for e in log)
    events = impressions.prepare_events(*tables(spark, log), ["positive"])
    caps = find_caps(events, Samples(train_positives=1))
    assert caps.train_from == (START_SECOND + last) * 1_000_000


def test_the_train_cap_keeps_whole_users(spark, positions):
    events = impressions.prepare_events(*tables(spark, positions), ["positive"])
    caps = find_caps(events, Samples(train_positives=40), has_times=False)
    assert caps.train_from is None
    marked = impressions.mark(events, "observed", caps, 0).where("part = 'train'").collect()
    out = {r["user_idx"] for r in marked if r["dropped"] == "over_train_cap"}
    kept = {r["user_idx"] for r in marked if r["dropped"] is None}
    assert out
    assert kept
    assert not out & kept
    assert sum(r["positive"] for r in marked if r["dropped"] is None) <= 40
