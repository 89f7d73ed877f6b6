"""Agreement of the codes of held-out pairs, against all matches."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.evaluation.code_pairs import pair_agreement, pairs_by_chance
from qarm.evaluation.held_out_pairs import TestPairs

pytestmark = pytest.mark.spark


def test_agreement_and_chance_against_all_matches(spark) -> None:
    """Pairs of 40 items whose codes follow the trigger in part; one item has no code."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (40, 3))
    trigger = rng.integers(0, 41, 200)
    target = np.where(rng.random(200) < 0.3, (trigger + 1) % 41, rng.integers(0, 41, 200))
    trigger, target = trigger[trigger != target], target[trigger != target]
    warm = rng.random(len(trigger)) < 0.5
    pairs = TestPairs(trigger, target, warm, trigger % 5)
    rows = [(i, code.tolist()) for i, code in enumerate(codes)]
    ids = spark.createDataFrame(rows, "item_idx bigint, rq array<int>")
    figures = {(m.metric, m.slice): m for m in pair_agreement("u2i", pairs, ids)}
    coded = (trigger < 40) & (target < 40)
    for name, inside in (("all", coded), ("warm", coded & warm), ("cold", coded & ~warm)):
        a, b = codes[trigger[inside]], codes[target[inside]]
        others = trigger[inside][:, None] != target[inside][None]
        for length in (1, 2, 3):
            figure = figures[f"rq_pair_agreement_l{length}", f"u2i {name}"]
            assert figure.value == pytest.approx((a == b)[:, :length].all(axis=1).mean())
            assert (figure.n, figure.part) == (inside.sum(), "test")
            assert figure.low is not None
            assert figure.low <= figure.value
            every = (a[:, None, :length] == b[None, :, :length]).all(axis=2)
            chance = figures[f"rq_pair_agreement_chance_l{length}", f"u2i {name}"]
            assert chance.value == pytest.approx(every[others].mean())


def test_one_item_alone_has_no_chance_level() -> None:
    assert np.isnan(
        pairs_by_chance(np.zeros((1, 2), int), np.zeros(3, int), np.zeros(3, int))
    ).all()
