"""Balanced and normalised fits."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.code_counts import usage
from qarm.codes.kmeans import kmeans
from qarm.codes.residual import fit_residual, relative_weights
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


def test_normalised_residuals_lower_the_relative_error() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3000, 6)) * rng.choice([0.5, 3.0], (3000, 1), p=[0.7, 0.3])
    x = x.astype(np.float32)
    plain = fit_residual(x, [30, 30], iterations=30)
    normal = fit_residual(x, [30, 30], iterations=30, normalise=True)

    def relative(fitted):
        _, left = encode(x, [prepare(level) for level in fitted.levels])
        return (left / (x**2).sum(1)).mean()

    assert relative(normal) < 0.8 * relative(plain)
    assert normal.errors[-1] > plain.errors[-1]  # the price
    codes, _ = encode(x, [prepare(level) for level in normal.levels])
    np.testing.assert_array_equal(codes, normal.codes)


def test_weights_of_normalised_residuals() -> None:
    rest = np.array([[2, 0], [0, 4], [0, 0], [0.1, 0]], np.float32)
    mean = (4 + 16 + 0.01) / 4
    weights = relative_weights(rest)
    np.testing.assert_allclose(weights, [0.1 * mean / 4, 0.1 * mean / 16, 1, 1], rtol=1e-6)
    assert relative_weights(np.zeros((3, 2), np.float32)).tolist() == [1, 1, 1]
