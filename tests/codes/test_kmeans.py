"""Lloyd's algorithm."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.cluster import KMeans

from qarm.codes.kmeans import kmeans, update
from qarm.errors import InputError


def blobs(k, each, d=7, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((k, d)) * 10
    points = np.repeat(centres, each, 0) + rng.standard_normal((k * each, d)) * 0.05
    return points.astype(np.float32), centres


def test_same_start_gives_sklearns_inertia() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1500, 11), dtype=np.float32)
    start = x[:37]
    ours = kmeans(x, 37, iterations=300, start=start)
    peer = KMeans(37, init=start, n_init=1, max_iter=300, tol=0).fit(x)
    assert ours.converged
    assert ours.inertia[-1] * len(x) == pytest.approx(peer.inertia_, rel=1e-4)
    np.testing.assert_allclose(ours.centroids, peer.cluster_centers_, atol=1e-3)


def test_inertia_never_grows() -> None:
    x = np.random.default_rng(2).standard_normal((900, 5), dtype=np.float32)
    inertia = kmeans(x, 50, iterations=30, seed=4).inertia
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(inertia))
    assert inertia[-1] < 0.9 * inertia[0]


def test_same_arguments_same_centroids() -> None:
    x = np.random.default_rng(3).standard_normal((700, 6), dtype=np.float32)
    one = kmeans(x, 40, iterations=8, seed=5, threads=1)
    two = kmeans(x, 40, iterations=8, seed=5, threads=3)
    other = kmeans(x, 40, iterations=8, seed=6)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    assert not np.array_equal(one.centroids, other.centroids)


def test_empty_clusters_take_the_farthest_points() -> None:
    points = np.array([[0], [1], [10], [30], [2]], np.float32)
    codes = np.zeros(5, np.int32)
    distances = ((points[:, 0] - 1) ** 2).astype(np.float32)
    centroids = np.array([[1], [500], [600]], np.float32)
    means = update(points, codes, distances, centroids)
    assert means[:, 0].tolist() == [1.0, 30.0, 10.0]  # the farthest first; both leave cluster 0


def test_a_dead_start_is_brought_to_life() -> None:
    x, centres = blobs(6, 40)
    start = np.vstack([x[:1], np.full((5, 7), 1e4, np.float32)])
    found = kmeans(x, 6, iterations=30, start=start)
    order = ((found.centroids[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
    assert sorted(order) == list(range(6))


def test_fewer_distinct_points_than_clusters() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    found = kmeans(x, 7, iterations=10, seed=0)
    assert found.inertia[-1] == 0
    assert np.isfinite(found.centroids).all()
    assert found.converged


def test_sums_do_not_drift() -> None:
    """Means of many equal values far from 1: float32 sums would be off in the fourth digit."""
    x = np.full((200_000, 1), 1234.567, np.float32)
    x[0] = 0
    found = kmeans(x, 2, iterations=3, start=np.array([[0.0], [1000.0]], np.float32))
    assert found.centroids[1, 0] == x[1, 0]


def test_order_of_points_does_not_matter() -> None:
    """Also where bounds are at work (many centroids), and to the last bit."""
    x = np.random.default_rng(5).standard_normal((3000, 6), dtype=np.float32)
    order = np.random.default_rng(6).permutation(3000)
    one = kmeans(x, 200, iterations=6, start=x[:200])
    two = kmeans(x[order], 200, iterations=6, start=x[:200], threads=2)
    np.testing.assert_array_equal(one.centroids, two.centroids)


def test_bad_input() -> None:
    x = np.ones((4, 2), np.float32)
    with pytest.raises(InputError, match="need >= 5 points, got 4"):
        kmeans(x, 5, iterations=1)
    with pytest.raises(InputError, match=r"start should be \(2, 2\), is \(3, 2\)"):
        kmeans(x, 2, iterations=1, start=x[:3])
    x[1, 1] = np.nan
    with pytest.raises(InputError, match="points: 1 of 4"):
        kmeans(x, 2, iterations=1)
