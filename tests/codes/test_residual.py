"""Residual k-means."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.residual import fit_residual, pseudo_points, reconstruct, shrunk
from qarm.errors import InputError
from qarm.kernels.nearest import encode, prepare


def points(n=600, d=10, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_codes_and_errors_are_those_of_the_frozen_levels() -> None:
    x = points()
    fitted = fit_residual(x, [30, 17, 5], iterations=10, seed=1)
    codes, left = encode(x, [prepare(level) for level in fitted.levels])
    np.testing.assert_array_equal(codes, fitted.codes)
    assert fitted.errors[-1] == pytest.approx(left.mean(), rel=1e-5)
    for error, estimate in zip(fitted.errors, reconstruct(codes, fitted.levels), strict=True):
        assert error == pytest.approx(((x - estimate) ** 2).sum(1).mean(), rel=1e-5)


def test_each_level_leaves_less() -> None:
    fitted = fit_residual(points(), [20, 20, 20, 20], iterations=15)
    assert all(b < a for a, b in zip(fitted.errors, fitted.errors[1:], strict=False))
    assert [len(level) for level in fitted.levels] == [20, 20, 20, 20]


def test_levels_are_seeded_one_by_one() -> None:
    """A second level does not depend on how many random numbers the first has drawn."""
    x = points()
    short = fit_residual(x, [9], iterations=5, seed=2)
    long = fit_residual(x, [9, 7], iterations=5, seed=2, threads=2)
    np.testing.assert_array_equal(short.levels[0], long.levels[0])


def test_shrunk_centroids_are_means_with_points_at_zero() -> None:
    centroids = np.array([[2, 0], [0, 8], [50, 50]], np.float32)  # the last has no point
    found = shrunk(centroids, np.array([2, 1, 0]), 2.0)
    np.testing.assert_allclose(found, [[1, 0], [0, 8 / 3], [0, 0]], rtol=1e-6)


def test_shrinking_lowers_the_error_of_points_not_fitted_on() -> None:
    x = points(n=1600, d=40)
    plain, shrinking = (
        fit_residual(x[:400], [60, 60, 60], iterations=15, shrink=pseudo) for pseudo in (0.0, 2.0)
    )
    np.testing.assert_array_equal(plain.levels[0], shrinking.levels[0])
    assert not np.array_equal(plain.levels[1], shrinking.levels[1])
    left = [
        encode(x[400:], [prepare(level) for level in fitted.levels])[1].mean()
        for fitted in (plain, shrinking)
    ]
    assert left[1] < 0.98 * left[0]
    codes, rest = encode(x[:400], [prepare(level) for level in shrinking.levels])
    np.testing.assert_array_equal(codes, shrinking.codes)
    assert shrinking.errors[-1] == pytest.approx(rest.mean(), rel=1e-5)


@pytest.mark.parametrize("own", [1.0, 4.0])
def test_pseudo_points_are_the_ratio_of_variances(own) -> None:
    """Within over between, from clusters drawn as the formula assumes, large and small ones."""
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 60, 400)
    centres = rng.standard_normal((400, 12))
    codes = np.repeat(np.arange(400), counts)
    x = (centres[codes] + own**0.5 * rng.standard_normal((len(codes), 12))).astype(np.float32)
    means = np.stack([x[codes == c].mean(0) for c in range(400)])
    inertia = float(((x - means[codes]) ** 2).sum(1).mean())
    assert pseudo_points(means, counts, inertia) == pytest.approx(own, rel=0.1)
    assert pseudo_points(means, counts, 0.0) == 0
    assert pseudo_points(means[:3], np.array([1, 1, 0]), inertia) == 0


def test_shrinking_by_what_the_clusters_tell() -> None:
    """As good as the best of a grid that the points not fitted on would choose."""
    x = points(n=1600, d=40)

    def left(shrink) -> float:
        fitted = fit_residual(x[:400], [60, 60, 60], iterations=15, shrink=shrink)
        assert fitted.shrunk_by[0] == 0
        return float(encode(x[400:], [prepare(level) for level in fitted.levels])[1].mean())

    grid = [left(pseudo) for pseudo in (0.0, 1.0, 4.0, 16.0)]
    assert left(None) < 1.01 * min(grid)
    assert left(None) < 0.98 * grid[0]


def test_as_many_centroids_as_points_leave_nothing() -> None:
    x = points(n=40)
    assert fit_residual(x, [40], iterations=20).errors[0] == pytest.approx(0, abs=1e-10)


def test_starts_where_it_is_told_to() -> None:
    x = points()
    fitted = fit_residual(x, [12, 8], iterations=100, seed=3)
    again = fit_residual(x, [12, 8], iterations=100, seed=4, start=fitted.levels)
    assert again.iterations == [2, 2]  # nothing moves any more
    for before, after in zip(fitted.levels, again.levels, strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(InputError, match=r"start has levels of shape \[\(12, 10\)\]"):
        fit_residual(x, [12, 8], iterations=1, start=fitted.levels[:1])
    with pytest.raises(InputError, match=r"start has levels of shape"):
        fit_residual(x, [8, 12], iterations=1, start=fitted.levels)


def test_reports_each_level_and_what_is_missing(capsys) -> None:
    fit_residual(points(n=50), [4, 3], iterations=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "residual k-means, level 1 of 2: 4 centroids" in lines[0]
    with pytest.raises(InputError, match="need >= 64 points, got 50; lower codes"):
        fit_residual(points(n=50), [4, 64], iterations=2)
