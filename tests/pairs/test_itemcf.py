"""ItemCF through Spark: order, caps, degrees. The formula itself: test_blocks.py."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.config.pairs import ItemCF
from qarm.pairs import hot_items
from qarm.pairs.itemcf import itemcf, mine_itemcf

from . import reference
from .collected import collect, same
from .reference import Event, random_log


def test_caps_equal_the_definition_and_are_symmetric_and_repeatable(frame, tiny_batches, keep):
    log = random_log(7, users=30, items=12, events=300)
    config = ItemCF(window_events=4, max_events_per_user=12, recency=0.7)
    mined = mine_itemcf(frame(log), config, keep)
    found, tally = collect(mined)
    expected = reference.itemcf(log, config)
    same(found, expected)
    assert tally == {"scored": len(expected), "below_min_support": 0, "beyond_top_k": 0}
    assert mined.skew["users_capped"] > 3
    assert 0 < mined.skew["share_of_events_lost_to_user_cap"] < 1
    assert all(found[i, j].score == found[j, i].score for i, j in found)
    again, _ = collect(mine_itemcf(frame(log[::-1]).repartition(7), config, keep))
    assert again == found


def test_a_cap_below_the_window_and_a_window_beyond_the_log(frame, tiny_batches, keep):
    log = random_log(5, users=15, items=14, events=160)
    config = ItemCF(window_events=500, max_events_per_user=4, recency=1.0)
    same(collect(mine_itemcf(frame(log), config, keep))[0], reference.itemcf(log, config))


def test_days_apart_equal_the_definition(frame, keep):
    log = [e._replace(minute=e.minute * 60) for e in random_log(6, users=15, items=12, events=160)]
    config = ItemCF(window_events=0, window_days=1.5, top_k=200)
    found = collect(mine_itemcf(frame(log), config, keep))[0]
    same(found, reference.itemcf(log, config))
    assert 20 < len(found) < len(reference.itemcf(log, ItemCF(window_events=0)))


@pytest.mark.parametrize(("window", "most"), [(0, 600), (3, 150)])
def test_items_of_many_users_are_added_up_from_shards_to_the_last_bit(
    frame, tiny_batches, monkeypatch, window, most, keep
):
    log = [e._replace(minute=e.minute * 60) for e in random_log(8, users=30, items=12, events=300)]
    config = ItemCF(window_events=window, min_support=2, top_k=4)
    found, tally = collect(mine_itemcf(frame(log), config, keep))
    monkeypatch.setattr(hot_items, "CROWDED_ENTRIES", most)
    monkeypatch.setattr(hot_items, "_HELD_ROWS", 5)
    crowded = []

    def noted(items, nearest, choose=hot_items.crowded_items):
        crowded[:] = choose(items, nearest)
        return np.array(crowded)

    monkeypatch.setattr("qarm.pairs.itemcf.crowded_items", noted)
    assert collect(mine_itemcf(frame(log), config, keep)) == (found, tally)
    items = {e.item for e in log}
    assert 0 < len(crowded) < len(items)
    wanted = np.array(sorted(items))[::3]
    assert set(crowded) & set(wanted.tolist())
    some, _ = collect(mine_itemcf(frame(log), config, keep, wanted))
    assert some == {pair: row for pair, row in found.items() if pair[0] in wanted}


def test_seq_decides_among_equal_times(frame):
    log = [Event(0, item, 5, seq, 1.0) for seq, item in enumerate((4, 2, 3, 1))]
    rows = itemcf(frame(log), ItemCF(window_events=1)).collect()
    found = {(r["trigger"], r["target"]) for r in rows}
    assert found == {(4, 2), (2, 4), (2, 3), (3, 2), (3, 1), (1, 3)}


def test_one_event_a_user_gives_no_pairs(frame, keep):
    mined = mine_itemcf(frame([Event(u, u, 0, 0, 1.0) for u in range(4)]), ItemCF(), keep)
    assert collect(mined) == ({}, {"scored": 0, "below_min_support": 0, "beyond_top_k": 0})


def test_items_without_weight_score_nothing_and_are_no_numbers_lost(frame, keep):
    log = [Event(u, i, i, i, 0.0 if i == 1 else 1.0) for u in range(3) for i in range(3)]
    found, tally = collect(mine_itemcf(frame(log), ItemCF(recency=1.0), keep))
    assert tally["scored"] == len(found) == 6
    assert {pair: p.score for pair, p in found.items() if 1 in pair} == dict.fromkeys(
        [(0, 1), (1, 0), (1, 2), (2, 1)], 0.0
    )
    assert found[0, 2].score == pytest.approx(1.0)
