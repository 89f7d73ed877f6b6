"""k-means++ and k-means||."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes import seeding
from qarm.codes.kmeans import kmeans
from qarm.codes.seeding import farthest, first_centres, seed_parallel, seed_plus_plus
from tests.codes.test_kmeans import blobs


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_finds_separate_blobs(init) -> None:
    x, centres = blobs(12, 60)
    first = first_centres(x, 12, init, 3)
    nearest_centre = ((first[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
    assert sorted(nearest_centre) == list(range(12))


def test_parallel_seeds_are_as_good() -> None:
    """After one assignment; random rows are the control that both have to beat."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((4000, 4)) * rng.exponential(1, (4000, 1))).astype(np.float32)

    def inertia(start):
        return kmeans(x, 100, iterations=1, start=start).inertia[0]

    costs = {
        name: np.mean([inertia(draw(s)) for s in range(3)])
        for name, draw in {
            "plus": lambda s: seed_plus_plus(x, 100, s),
            "parallel": lambda s: seed_parallel(x, 100, s),
            "random": lambda s: x[np.random.default_rng(s).choice(4000, 100, replace=False)],
        }.items()
    }
    assert costs["parallel"] < 1.1 * costs["plus"]
    assert costs["parallel"] < 0.8 * costs["random"]


def test_same_seed_same_centres() -> None:
    x = np.random.default_rng(2).standard_normal((900, 5), dtype=np.float32)
    one, two = seed_parallel(x, 30, (4, 1)), seed_parallel(x, 30, (4, 1), threads=3)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, seed_parallel(x, 30, (4, 2)))
    assert len(np.unique(one, axis=0)) == 30  # points, each once
    assert all((x == c).all(1).any() for c in one)


def test_fewer_distinct_points_than_centres() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    for init in ("k-means++", "k-means||"):
        first = first_centres(x, 7, init, 0)
        assert first.shape == (7, 3)
        assert len(np.unique(first, axis=0)) == 3


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_points_without_weight_are_not_drawn(init) -> None:
    x, _ = blobs(10, 30)
    weights = np.ones(len(x), np.float32)
    weights[150:] = 0
    first = first_centres(x, 6, init, 1, weights)[1:]  # the first of all is any point
    assert all((x[:150] == c).all(1).any() for c in first)


def test_looks_at_a_part_of_many_points(monkeypatch) -> None:
    monkeypatch.setattr(seeding, "SEEDING_ROWS", 50)
    x, _ = blobs(40, 100)
    assert len(np.unique(seed_plus_plus(x, 20, 0), axis=0)) == 20


def test_farthest_points_keep_apart() -> None:
    points = np.array([[0], [30], [30.1], [-20], [0]], np.float32)
    ones = np.ones(5, np.float32)
    assert farthest(points, ones, (points[:, 0] ** 2).copy(), 2) == [2, 3]
    assert farthest(points, ones, (points[:, 0] ** 2).copy(), 9) == [2, 3, 1]
    assert farthest(points, np.array([1, 0, 0, 1, 1], np.float32), np.zeros(5, np.float32), 2) == []
