"""Balanced fits."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.balance import Penalties
from qarm.codes.code_counts import usage
from qarm.codes.kmeans import kmeans
from qarm.codes.residual import fit_residual
from qarm.kernels.nearest import encode, prepare


def crowded(n=6000, d=8, seed=0):
    """Most points in a few crowded places."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((60, d))
    share = 1 / np.arange(1, 61) ** 1.2
    which = rng.choice(60, n, p=share / share.sum())
    return (topics[which] + 0.15 * rng.standard_normal((n, d))).astype(np.float32)


def entropy_and_error(x, found):
    codes, left = encode(x, [prepare(found.centroids)])
    return usage(np.bincount(codes[:, 0], minlength=len(found.centroids))).entropy, left.mean()


def test_balance_raises_the_entropy_of_nearest_centroids() -> None:
    x = crowded()
    fits = [kmeans(x, 50, iterations=25, balance=b) for b in (0, 0.3, 1.0)]
    entropies, errors = zip(*[entropy_and_error(x, f) for f in fits], strict=True)
    assert entropies[0] + 0.01 < entropies[1] < entropies[2]
    assert max(errors) < 1.1 * errors[0]
    again = kmeans(x, 50, iterations=25, balance=1.0, threads=2)
    np.testing.assert_array_equal(again.centroids, fits[2].centroids)


def test_balanced_levels_keep_greedy_codes() -> None:
    x = crowded(2000)
    fitted = fit_residual(x, [20, 10], iterations=10, balance=0.5)
    codes, left = encode(x, [prepare(level) for level in fitted.levels])
    np.testing.assert_array_equal(codes, fitted.codes)
    assert fitted.errors[-1] == pytest.approx(left.mean(), rel=1e-5)


def test_penalties_rise_with_the_cluster_and_leave_no_trace_in_distances() -> None:
    penalties = Penalties(3, 0.5)
    penalties.adjust(np.array([1, 4, 16]), 2.0)
    points, centroids = np.zeros((2, 2), np.float32), np.ones((3, 2), np.float32)
    assert penalties.extend_points(points)[:, 2].tolist() == [0, 0]
    extra = penalties.extend_centroids(centroids)[:, 2].astype(float) ** 2
    root = np.sqrt(3 / 21)
    np.testing.assert_allclose(extra, 0.2 * root * np.array([0, 1, 3]), rtol=1e-6)
    costs = (2 + extra[[1, 2]]).astype(np.float32)
    np.testing.assert_allclose(penalties.take_off(costs, np.array([1, 2], np.int32)), 2, rtol=1e-6)
    off = Penalties(3, 0.0)
    off.adjust(np.array([1, 4, 16]), 2.0)
    assert off.extend_centroids(centroids) is centroids
