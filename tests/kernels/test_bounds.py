"""Assignments that skip groups of centroids are those of brute force."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.kmeans import update
from qarm.errors import InputError
from qarm.kernels import bounds
from qarm.kernels.bounds import MovingCentroids
from qarm.kernels.nearest import nearest


def clustered(n, d=13, seed=0):
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((40, d))
    return (topics[rng.integers(40, size=n)] + 0.4 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(bounds, "GROUP", 7)
    monkeypatch.setattr(bounds, "BLOCK", 256)


@pytest.mark.parametrize("k", [97, 150])
def test_same_codes_as_without_bounds(k) -> None:
    x = clustered(3000)
    centroids = x[:k].copy()
    moving, alone = MovingCentroids(x, threads=2), MovingCentroids(x)
    for _ in range(12):
        codes, distances = moving.nearest(centroids)
        expected, exact = nearest(x, centroids)
        np.testing.assert_array_equal(codes, expected)
        np.testing.assert_allclose(distances, exact, rtol=1e-6)
        np.testing.assert_array_equal(alone.nearest(centroids)[0], expected)
        centroids = update(x, codes, distances, centroids)


def test_bounds_hold_and_leave_work_out() -> None:
    """What is skipped is far from what could win, and most of it is skipped once little moves."""
    x = clustered(2000)
    centroids = x[:90].copy()
    moving = MovingCentroids(x)
    for _ in range(6):
        codes, distances = moving.nearest(centroids)
        centroids = update(x, codes, distances, centroids)
    codes, _ = moving.nearest(centroids)
    assert moving._order is not None
    kept = np.concatenate([b.T for b in moving._bounds])
    every = ((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1) ** 0.5
    own = every[np.arange(len(x)), codes]
    every[np.arange(len(x)), codes] = np.inf
    inside = np.where(moving._order < 0, np.inf, every[:, moving._order])
    for group in range(kept.shape[1]):
        members = moving._group_of == group
        assert (kept[:, group] <= inside[:, members].min(1)).all()
    assert (kept > own[:, None]).mean() > 0.6


def test_jumps_ties_and_equal_centroids() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-2, 3, (1500, 4)).astype(np.float32)  # a grid: ties everywhere
    moving = MovingCentroids(x)
    for step in range(6):
        centroids = rng.integers(-2, 3, (60, 4)).astype(np.float32)
        centroids += np.float32(0.5) * (step % 2)
        if step > 3:  # all different, and far from where they were
            centroids = np.unique(x, axis=0)[rng.permutation(60)] + np.float32(0.25)
        np.testing.assert_array_equal(moving.nearest(centroids)[0], nearest(x, centroids)[0])


def test_near_ties_are_decided_as_by_float64() -> None:
    rng = np.random.default_rng(2)
    x = (100 + rng.standard_normal((800, 6)) * 1e-4).astype(np.float32)
    centroids = np.unique((100 + rng.standard_normal((70, 6)) * 1e-4).astype(np.float32), axis=0)
    moving = MovingCentroids(x)
    for _ in range(3):
        codes, _ = moving.nearest(centroids)
        exact = ((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1)
        np.testing.assert_array_equal(codes, exact.argmin(1))
        centroids = centroids[:, ::-1].copy()


def test_other_dimensions() -> None:
    with pytest.raises(InputError, match="points have 13 dimensions, centroids 4"):
        MovingCentroids(clustered(100)).nearest(np.ones((3, 4), np.float32))
