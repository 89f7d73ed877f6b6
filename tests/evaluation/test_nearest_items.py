"""Keys of nearest items, and the best of many tiles."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from qarm.evaluation.nearest_items import (
    Nearest,
    code_keys,
    jaccard_by_chance,
    list_keys,
    tie_breaks,
    unit_rows,
    vector_keys,
)


def test_larger_key_is_nearer_and_ties_are_the_hash_of_the_item() -> None:
    rng = np.random.default_rng(0)
    ties = tie_breaks(np.arange(50))
    assert len(np.unique(ties)) == 50
    x = unit_rows(rng.standard_normal((50, 4)))
    x[7] = x[3]
    order = np.argsort(-vector_keys(x[:1], x, ties)[0])
    cosine = np.round(x[0] @ x[order].T, 8)
    assert (np.diff(cosine) <= 0).all()
    at = {int(i): place for place, i in enumerate(order)}
    assert abs(at[7] - at[3]) == 1
    assert (at[7] < at[3]) == (ties[7] > ties[3])


def test_prefix_goes_before_distance_and_shared_anchors_are_counted() -> None:
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    means = np.array([[0.0], [9.0], [0.1], [0.0], [0.0]])
    ties = tie_breaks(np.arange(5))
    keys = code_keys(codes[:1], means[:1], codes, means, ties, 100.0)[0]
    assert np.argsort(-keys).tolist()[2:] == [1, 2, 3]  # 0 and 4 are alike
    vq = np.array([[5, 9, 2], [9, 2, 5], [2, 7, 8], [70, 7, 8], [1, 4, 6]])
    shared = list_keys(vq[:2], vq, ties) >> 32
    assert shared.tolist() == [[3, 3, 1, 0, 0]] * 2


@pytest.mark.parametrize("tile", [1, 3, 40, 1000])
def test_best_of_tiles_is_the_best_of_all(tile) -> None:
    rng = np.random.default_rng(1)
    keys = rng.permutation(6 * 1000).reshape(6, 1000)
    keys[2, 10:] = -1  # a query with ten candidates
    best = Nearest.empty(6, 20)
    for start in range(0, 1000, tile):
        some = np.arange(start, min(start + tile, 1000))
        for query in (0, 3):
            best.add(query, keys[query : query + 3][:, some], some)
    for query in range(6):
        order = np.argsort(-keys[query])[:20]
        expected = set(order[keys[query][order] >= 0].tolist())
        assert set(best.items[query].tolist()) - {-1} == expected


def test_jaccard_by_chance_is_the_mean_over_all_sets() -> None:
    fixed = {0, 1, 2}
    every = [len(fixed & set(s)) / len(fixed | set(s)) for s in combinations(range(7), 3)]
    assert jaccard_by_chance(3, 7) == pytest.approx(np.mean(every))
    assert jaccard_by_chance(20, 5) == 1.0
    assert jaccard_by_chance(20, 10**7) == pytest.approx(20 / 1e7 / 2, rel=0.1)
