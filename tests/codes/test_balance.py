"""Balanced fits."""

from __future__ import annotations

import numpy as np
import pytest

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
