"""The estimate of what caps cost, against scores of the definition with and without them."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.config.pairs import ItemCF, Swing
from qarm.lake.caching import Keeper
from qarm.pairs import itemcf, mass, swing

from . import reference
from .reference import random_log


def mass_of(pairs) -> float:
    return sum(pair.score for pair in pairs.values())


def test_all_triggers_give_the_share_itself(frame, monkeypatch):
    log = random_log(2, users=20, items=18, events=260)
    events = frame(log)
    every = np.array(sorted({e.item for e in log}))
    for module in (itemcf, swing):
        monkeypatch.setattr(module, "sample_triggers", lambda _: every)
    with Keeper() as kept:
        config = ItemCF(max_events_per_user=9, window_events=3, top_k=2)
        found = itemcf.itemcf_mass_lost(events, config, kept)
        capped, whole = (
            mass_of(reference.itemcf(log, config.model_copy(update={"max_events_per_user": n})))
            for n in (9, 1000)
        )
        assert found == pytest.approx(1 - capped / whole)
        assert abs(found) > 0.01
        own = Swing(min_items_per_user=2, max_items_per_user=6, top_k=2, min_support=1)
        found = swing.swing_mass_lost(events, own, 0, kept)
        capped, whole = (
            mass_of(
                reference.swing(
                    log, own.model_copy(update={"max_items_per_user": n}), lambda i, users: users
                )
            )
            for n in (6, 1000)
        )
        assert found == pytest.approx(1 - capped / whole)
        assert abs(found) > 0.01


def test_the_sample_is_a_hashed_share_of_the_items(spark):
    items = spark.range(40_000).withColumnRenamed("id", "item_idx")
    chosen = mass.sample_triggers(items.union(items))
    assert 300 < len(chosen) < 500
    assert (np.diff(chosen) > 0).all()
    assert np.isin(mass.sample_triggers(items.limit(20_000)), chosen).all()
    assert mass.share_of_mass_lost(np.empty(0, np.int64), None) is None
