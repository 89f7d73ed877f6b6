"""Small kernels against NumPy: ``residuals``, ``farthest``, ``candidates`` and ``placement``."""

from __future__ import annotations

import numpy as np

from qarm.kernels.candidates import rank_candidates
from qarm.kernels.farthest import choose_farthest, draw, relax
from qarm.kernels.placement import place_rows
from qarm.kernels.residuals import project_bits, square_rows, subtract


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_residuals() -> None:
    rest, centroids = drawn(50, 7), drawn(5, 7, seed=1)
    codes = np.arange(50, dtype=np.int32) % 5
    expected = rest - centroids[codes]
    subtract(rest, centroids, codes)
    np.testing.assert_array_equal(rest, expected)
    squares = np.empty(50, np.float32)
    square_rows(rest, squares)
    np.testing.assert_allclose(squares, (rest.astype(np.float64) ** 2).sum(1), rtol=1e-6)
    weights, origin = drawn(3, 7, seed=2), drawn(7, seed=3)
    bits = np.empty(50, np.int32)
    project_bits(rest, weights, origin, bits)
    wide = (rest.astype(np.float64) - origin) @ weights.T.astype(np.float64)
    np.testing.assert_array_equal(bits, (wide > 0) @ [1, 2, 4])


def test_farthest() -> None:
    points = drawn(40, 4)
    closest = np.full(40, 3.0, np.float32)
    total = relax(points, points[7], closest)
    expected = np.minimum(3, ((points - points[7]) ** 2).sum(1))
    np.testing.assert_allclose(closest, expected, rtol=1e-5)
    assert np.isclose(total, expected.sum(), rtol=1e-5)
    weights = np.array([0, 1, 0, 2, 0], np.float32)
    assert [draw(weights, at) for at in (0, 0.5, 1, 2.9, 3)] == [1, 1, 3, 3, 3]
    square = np.array([[0, 0], [1, 0], [0, 3], [1, 3]], np.float32)
    assert choose_farthest(square, 4).tolist() == [0, 3, 1, 2]


def test_candidates_are_ordered_by_distance_then_id() -> None:
    x, anchors = drawn(30, 5), drawn(9, 5, seed=1)
    anchors[6] = anchors[2]
    candidates = np.tile(np.arange(9, dtype=np.int32)[::-1], (30, 1))
    ids = np.empty((30, 4), np.int32)
    scores = np.full((30, 9), 1e30, np.float32)
    clear = rank_candidates(x, anchors, scores, candidates, ids, np.zeros(30, np.float32))
    wide = ((x[:, None].astype(np.float64) - anchors[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(ids, np.argsort(wide, axis=1, kind="stable")[:, :4])
    assert clear.all()
    # An edge below the true score of rank K: other anchors may be nearer.
    assert not rank_candidates(
        x, anchors, scores * -1, candidates, ids, np.zeros(30, np.float32)
    ).any()


def test_placement_respects_room() -> None:
    rest, centroids = drawn(12, 3), drawn(4, 3, seed=1)
    out = np.full(12, -1, np.int32)
    room = np.array([2, 3, 1, 4], np.int64)
    none = np.zeros(12, np.int64)
    place_rows(rest, centroids, room, none.astype(bool), none, none - 1, 0, out)
    assert np.bincount(out[out >= 0], minlength=4).tolist() == [2, 3, 1, 4]
    assert (out[10:] == -1).all()
    assert room.tolist() == [0, 0, 0, 0]
