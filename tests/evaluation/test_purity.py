"""Purity of prefixes against its definition, item by item."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from qarm.evaluation.purity import category_purity

pytestmark = pytest.mark.spark
ITEMS = 150


def purity(prefixes: list[tuple], values: list[list[str]]) -> tuple[float, float, int]:
    """By the definition, item by item: (purity, chance, items counted)."""
    carried = Counter(v for own in values for v in own)
    top = max(carried, key=lambda v: (carried[v], v))
    scores, common = [], []
    for i, own in enumerate(values):
        others = Counter(
            v
            for j, theirs in enumerate(values)
            if j != i and prefixes[j] == prefixes[i]
            for v in theirs
        )
        if not own or not others:
            continue
        best = max(others.values())
        winners = [v for v, n in others.items() if n == best]
        scores.append(sum(v in own for v in winners) / len(winners))
        common.append(top in own)
    return float(np.mean(scores)), float(np.mean(common)), len(scores)


def test_the_item_itself_does_not_vote(spark) -> None:
    """Genres follow the first number in part, up to three per item; shops follow nothing."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [7, 5], (ITEMS, 2))
    genres, shops = [], []
    for i, code in enumerate(codes[:, 0]):
        values = rng.integers(0, 6, i % 4).tolist()
        if values and rng.random() < 0.6:
            values[0] = int(code) % 3
        genres.append(sorted({f"g{v}" for v in values}))
        shops.append([f"s{rng.integers(0, 4)}"] if i % 3 else [])
    values = {"genre": genres, "shop": shops}
    ids = spark.createDataFrame(
        [(i, code.tolist()) for i, code in enumerate(codes)], "item_idx bigint, rq array<int>"
    )
    items = spark.createDataFrame(
        [(i, {f: v[i] for f, v in values.items() if v[i]} or None) for i in range(ITEMS)],
        "item_idx bigint, attributes map<string,array<string>>",
    )
    figures = {(m.metric, m.slice): m for m in category_purity(ids, items, 2)}
    for field, own in values.items():
        for length in (1, 2):
            value, chance, n = purity([tuple(code[:length]) for code in codes], own)
            figure = figures[f"rq_purity_l{length}", f"field {field}"]
            assert (figure.value, figure.n) == (pytest.approx(value), n)
            by_chance = figures[f"rq_purity_chance_l{length}", f"field {field}"]
            assert by_chance.value == pytest.approx(chance)
