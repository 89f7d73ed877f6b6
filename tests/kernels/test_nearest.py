"""Nearest centroid and greedy residual codes against float64 brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.errors import InputError
from qarm.kernels.microkernel import MR, WIDTH
from qarm.kernels.nearest import ROWS, encode, nearest, prepare


def brute(x, centroids):
    wide = ((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1)
    return wide.argmin(1), wide.min(1)


# Neither rows, centroids nor dimensions are powers of two; below, at and above the tiles' sizes.
@pytest.mark.parametrize(
    ("n", "k", "d"),
    [
        (1, 1, 1),
        (5, 3, 2),
        (WIDTH - 1, MR + 1, 1),
        (WIDTH + 1, MR - 1, 7),
        (ROWS, 2 * MR, 16),
        (ROWS + 1, 3 * MR + 1, 13),
        (700, 1333, 33),
        (90, 211, 517),  # two tiles
    ],
)
def test_equal_to_brute_force(n, k, d) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, d), dtype=np.float32)
    centroids = rng.standard_normal((k, d), dtype=np.float32)
    codes, distances = nearest(x, centroids)
    expected, least = brute(x, centroids)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_allclose(distances, least, rtol=1e-5, atol=1e-6)
    assert codes.dtype == np.int32
    assert distances.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 30), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99)
)
def test_ties_go_to_the_lower_code(n, k, d, values, seed) -> None:
    """On a small grid of integers, equal distances and equal centroids abound."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, values + 1, (n, d)).astype(np.float32)
    centroids = rng.integers(0, values + 1, (k, d)).astype(np.float32)
    np.testing.assert_array_equal(nearest(x, centroids)[0], brute(x, centroids)[0])


def test_far_from_the_origin_float32_alone_would_fail() -> None:
    """Scores near 10^6 hide differences of 10^-2: the float64 pass decides them."""
    rng = np.random.default_rng(3)
    x = (1000 + rng.standard_normal((500, 24)) * 0.1).astype(np.float32)
    centroids = (1000 + rng.standard_normal((77, 24)) * 0.1).astype(np.float32)
    expected, least = brute(x, centroids)
    scores = (centroids**2).sum(1) / 2 - x @ centroids.T
    assert (scores.argmin(1) != expected).any()
    codes, distances = nearest(x, centroids)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_allclose(distances, least, rtol=1e-3)


def test_independent_of_batch_and_threads() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1003, 20), dtype=np.float32)
    levels = [prepare(rng.standard_normal((k, 20), dtype=np.float32)) for k in (70, 33)]
    codes, left = encode(x, levels)
    for threads in (2, 3, 7):
        again, rest = encode(x, levels, threads=threads)
        np.testing.assert_array_equal(again, codes)
        np.testing.assert_array_equal(rest, left)
    for row in (0, 500, 1002):
        one, rest = encode(x[row : row + 1], levels)
        np.testing.assert_array_equal(one[0], codes[row])
        assert rest[0] == left[row]


def test_leaves_the_number_of_torch_threads_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        nearest(np.ones((3, 2), np.float32), np.ones((1, 2), np.float32))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_residual_codes_are_greedy() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((300, 9), dtype=np.float32)
    levels = [
        rng.standard_normal((k, 9), dtype=np.float32) * 0.5**i for i, k in enumerate((31, 17, 5))
    ]
    codes, left = encode(x, [prepare(level) for level in levels])
    rest = x.copy()
    for number, level in enumerate(levels):
        np.testing.assert_array_equal(codes[:, number], brute(rest, level)[0])
        rest = rest - level[codes[:, number]]
    np.testing.assert_allclose(left, (rest.astype(np.float64) ** 2).sum(1), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 70),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(1, 19),
    st.floats(0.01, 1000),
    st.integers(0, 99),
)
def test_each_level_given_the_same_prefix(n, sizes, d, scale, seed) -> None:
    """The bulk promise: nearest in float64, but for ties within 1e-6 (||x||^2 + ||c||^2)."""
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((n, d))).astype(np.float32)
    levels = [(scale * rng.standard_normal((k, d))).astype(np.float32) for k in sizes]
    codes, _ = encode(x, [prepare(level) for level in levels])
    rest = x.astype(np.float64)
    for number, level in enumerate(levels):
        wide = ((rest[:, None] - level[None]) ** 2).sum(-1)
        chosen = level[codes[:, number]].astype(np.float64)
        near = ((rest - chosen) ** 2).sum(1)
        assert (near - wide.min(1) <= 1e-6 * ((rest**2).sum(1) + (chosen**2).sum(1))).all()
        rest = rest - chosen


def test_no_levels_and_no_rows() -> None:
    x = np.array([[3.0, 4.0]], np.float32)
    codes, left = encode(x, [])
    assert codes.shape == (1, 0)
    assert left[0] == 25.0
    codes, left = nearest(np.empty((0, 2), np.float32), x)
    assert codes.shape == left.shape == (0,)


def test_read_only_input_is_left_as_it_is() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    x.flags.writeable = False
    centroids = x[:2]
    codes, distances = nearest(x, centroids)
    assert codes.tolist() == [0, 1, 1, 1]
    assert distances.tolist() == [0.0, 0.0, 27.0, 108.0]
    assert x[0, 0] == 0


def test_bad_input() -> None:
    good = np.ones((4, 3), np.float32)
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="1 of 4 vectors have NaN or infinity, the first in row 2"):
        nearest(bad, good)
    bad[2, 1] = np.inf
    with pytest.raises(InputError, match="centroids: 1 of 4"):
        nearest(good, bad)
    with pytest.raises(InputError, match="vectors have 3 dimensions, centroids of level 0 have 2"):
        nearest(good, good[:, :2])
    with pytest.raises(InputError, match="expected a matrix"):
        nearest(good[0], good)
    with pytest.raises(InputError, match="at least one vector"):
        nearest(good, good[:0])
