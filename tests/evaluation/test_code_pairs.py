"""Held-out pairs: agreement of their codes, and what is measured without vectors or a codebook."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qarm.evaluation.code_arrays import pairs_by_chance
from qarm.evaluation.code_pairs import pair_agreement
from qarm.evaluation.new_pairs import TestPairs
from qarm.stages import quality
from tests.lakes.evaluation import tiny_lake, tiny_tables, write  # noqa: F401

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
    found = {(m.metric, m.slice): m for m in pair_agreement("u2i", pairs, ids, 5)}
    coded = (trigger < 40) & (target < 40)
    for name, inside in (("all", coded), ("warm", coded & warm), ("cold", coded & ~warm)):
        a, b = codes[trigger[inside]], codes[target[inside]]
        others = trigger[inside][:, None] != target[inside][None]
        for length in (1, 2, 3):
            figure = found[f"rq_pair_agreement_l{length}", f"u2i {name}"]
            assert figure.value == pytest.approx((a == b)[:, :length].all(axis=1).mean())
            assert (figure.n, figure.part) == (inside.sum(), "test")
            assert figure.low is not None
            assert figure.low <= figure.value
            every = (a[:, None, :length] == b[None, :, :length]).all(axis=2)
            chance = found[f"rq_pair_agreement_chance_l{length}", f"u2i {name}"]
            assert chance.value == pytest.approx(every[others].mean())


def test_one_item_alone_has_no_chance_level() -> None:
    assert np.isnan(
        pairs_by_chance(np.zeros((1, 2), int), np.zeros(3, int), np.zeros(3, int))
    ).all()


def test_stage_asks_only_pairs_that_training_did_not_know(tiny_lake, tmp_path) -> None:  # noqa: F811
    """The tiny log has User2Item pairs 0 -> 1, 2 -> 3 (known as 3 -> 2) and 1 -> 3 (its user's)."""
    context = replace(tiny_lake(), stage="quality")
    ids = [
        {"item_id": str(i), "item_idx": i, "codebook_id": "mine", "rq": rq, "vq": []}
        for i, rq in enumerate([[0, 1], [0, 1], [1, 0], [0, 0], [1, 1], [1, 0], [1, 2]])
    ]
    write(context, "semantic_ids", ids)
    result = quality.run(context)
    found = {(m.metric, m.slice): m for m in result.metrics}
    # 0 -> 1 shares both numbers, 1 -> 3 the first one.
    assert found["rq_pair_agreement_l1", "u2i all"].n == 2
    assert found["rq_pair_agreement_l1", "u2i all"].value == 1.0
    assert found["rq_pair_agreement_l2", "u2i all"].value == 0.5
    assert result.facts["pairs_u2i"]["known_from_training"] == 1
    # Codes without their codebook: sizes are what is seen, nothing is reconstructed.
    assert result.facts["rq_sizes"] == [2, 3]
    assert found["shared_rate", "all"].value == pytest.approx(4 / 7)
    assert "rq_prefix_cosine_l1" in {m for m, _ in found}
    assert not any("reconstruction" in m or "overlap" in m for m, _ in found)
    assert set(result.facts["left_out"]) >= {
        "codes that no item has",
        "reconstruction and neighbours",
        "purity",
    }
