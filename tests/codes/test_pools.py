"""Pools of anchors, on arrays; on a lake in test_fit_stage."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.compare_pools import coverage, table_of
from qarm.codes.pools import Pool, farthest_first
from qarm.errors import InputError
from tests.lakes.codes import unit_vectors


def test_farthest_first_is_the_greedy_choice() -> None:
    x = unit_vectors(300)
    chosen = [0]
    closest = ((x - x[0]) ** 2).sum(1)
    for _ in range(24):
        chosen.append(int(closest.argmax()))
        closest = np.minimum(closest, ((x - x[chosen[-1]]) ** 2).sum(1))
    assert farthest_first(x, 25).tolist() == chosen


def test_farthest_first_of_equal_points_takes_each_row_once() -> None:
    x = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    assert farthest_first(x, 5).tolist() == [0, 3, 1, 2, 4]
    with pytest.raises(InputError, match="need >= 7 points"):
        farthest_first(x, 7)
    x[2, 0] = np.nan
    with pytest.raises(InputError, match="1 of 6 vectors have NaN"):
        farthest_first(x, 2)


def test_coverage_leaves_the_item_itself_out() -> None:
    x = np.array([[0, 0], [3, 4], [0, 1], [10, 0]], np.float32)
    pool = Pool(np.array([0, 1, 7]), np.array([[0, 0], [3, 4], [0, 1]], np.float32), "random")
    found = coverage(x, np.array([0, 1, 2, 3]), pool, 2)
    own = [1, 18**0.5, 0, 65**0.5]  # item 2 has the vector of anchor 7, but is not that item
    assert found.nearest == pytest.approx(np.mean(own))
    assert found.farthest == pytest.approx(65**0.5)
    codes = [1, 5, 18**0.5, 5, 0, 1, 65**0.5, 10]
    assert found.code == pytest.approx(np.mean(codes))
    assert (found.first_used, found.used, found.anchors) == (2 / 3, 1.0, 3)
    assert "random" in table_of({"random": found})


def test_k_centre_covers_what_is_far_off() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2000, 4)) * rng.exponential(1, (2000, 1))).astype(np.float32)
    ids = np.arange(2000)
    pools = {
        "k_centre": Pool(ids[:60], x[farthest_first(x, 60)], "k_centre"),
        "random": Pool(ids[:60], x[:60], "random"),
    }
    found = {name: coverage(x, ids + 5000, pool, 5) for name, pool in pools.items()}
    assert found["k_centre"].farthest < 0.6 * found["random"].farthest
    assert found["random"].entropy > found["k_centre"].entropy
