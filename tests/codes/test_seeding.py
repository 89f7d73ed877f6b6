"""k-means++."""

from __future__ import annotations

import numpy as np

from qarm.codes import seeding
from qarm.codes.kmeans import kmeans
from qarm.codes.seeding import farthest, seed_plus_plus
from tests.codes.test_kmeans import blobs


def test_finds_separate_blobs() -> None:
    x, centres = blobs(12, 60)
    first = seed_plus_plus(x, 12, 3)
    nearest_centre = ((first[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
    assert sorted(nearest_centre) == list(range(12))


def test_better_than_random_rows() -> None:
    """After one assignment."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((4000, 4)) * rng.exponential(1, (4000, 1))).astype(np.float32)

    def inertia(start):
        return kmeans(x, 100, iterations=1, start=start).inertia[0]

    ours = np.mean([inertia(seed_plus_plus(x, 100, s)) for s in range(3)])
    rows = [np.random.default_rng(s).choice(4000, 100, replace=False) for s in range(3)]
    assert ours < 0.8 * np.mean([inertia(x[r]) for r in rows])


def test_same_seed_same_centres() -> None:
    x = np.random.default_rng(2).standard_normal((900, 5), dtype=np.float32)
    one = seed_plus_plus(x, 30, (4, 1))
    np.testing.assert_array_equal(one, seed_plus_plus(x, 30, (4, 1)))
    assert not np.array_equal(one, seed_plus_plus(x, 30, (4, 2)))
    assert len(np.unique(one, axis=0)) == 30  # points, each once
    assert all((x == c).all(1).any() for c in one)


def test_fewer_distinct_points_than_centres() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    first = seed_plus_plus(x, 7, 0)
    assert first.shape == (7, 3)
    assert len(np.unique(first, axis=0)) == 3


def test_reads_a_part_of_many_points(monkeypatch) -> None:
    monkeypatch.setattr(seeding, "SEEDING_ROWS", 50)
    x, _ = blobs(40, 100)
    assert len(np.unique(seed_plus_plus(x, 20, 0), axis=0)) == 20


def test_farthest_points_keep_apart() -> None:
    points = np.array([[0], [30], [30.1], [-20], [0]], np.float32)
    assert farthest(points, (points[:, 0] ** 2).copy(), 2) == [2, 3]
    assert farthest(points, (points[:, 0] ** 2).copy(), 9) == [2, 3, 1]
    assert farthest(points, np.zeros(5, np.float32), 2) == []
