"""The K nearest anchors against a stable sort of float64 distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.codes.anchors import SPARE, nearest_k, prepare_anchors
from qarm.errors import InputError
from qarm.kernels.microkernel import MR, WIDTH
from qarm.kernels.nearest import ROWS


def brute(x, anchors, k):
    wide = ((x[:, None].astype(np.float64) - anchors[None]) ** 2).sum(-1)
    return np.argsort(wide, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize(
    ("n", "anchors", "d", "k"),
    [
        (1, 1, 1, 1),
        (7, 30, 5, 25),
        (129, 1337, 33, 25),
        (300, 40, 8, 40),
        (50, 513, 12, 500),
        (ROWS + 1, 2 * MR, 3, 1),
        (WIDTH + 1, 211, 517, 25),  # two tiles
    ],
)
def test_equal_to_brute_force(n, anchors, d, k) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, d), dtype=np.float32)
    pool = rng.standard_normal((anchors, d), dtype=np.float32)
    ids = nearest_k(x, pool, k)
    np.testing.assert_array_equal(ids, brute(x, pool, k))
    assert ids.dtype == np.int32


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(1, 4), st.data())
def test_ties_go_to_the_lower_id(n, anchors, d, data) -> None:
    k = data.draw(st.integers(1, anchors))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.integers(0, 3, (n, d)).astype(np.float32)
    pool = rng.integers(0, 3, (anchors, d)).astype(np.float32)
    np.testing.assert_array_equal(nearest_k(x, pool, k), brute(x, pool, k))


def test_more_equal_anchors_than_spare_candidates() -> None:
    rng = np.random.default_rng(0)
    pool = np.repeat(rng.standard_normal((6, 7), dtype=np.float32), SPARE + 5, axis=0)
    x = rng.standard_normal((100, 7), dtype=np.float32)
    np.testing.assert_array_equal(nearest_k(x, pool, 10), brute(x, pool, 10))


def test_anchors_that_come_nearer_and_nearer() -> None:
    """The worst order for a filter: each anchor is among the nearest so far."""
    pool = np.linspace(9, 1, 500, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    x = np.linspace(-1, 0.5, 70, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    np.testing.assert_array_equal(nearest_k(x, pool, 25), brute(x, pool, 25))


def test_far_from_the_origin() -> None:
    rng = np.random.default_rng(1)
    pool = (1000 + rng.standard_normal((200, 10)) * 0.1).astype(np.float32)
    x = (1000 + rng.standard_normal((50, 10)) * 0.1).astype(np.float32)
    np.testing.assert_array_equal(nearest_k(x, pool, 25), brute(x, pool, 25))


def test_independent_of_threads() -> None:
    rng = np.random.default_rng(2)
    pool = prepare_anchors(rng.standard_normal((90, 6), dtype=np.float32))
    x = rng.standard_normal((401, 6), dtype=np.float32)
    np.testing.assert_array_equal(nearest_k(x, pool, 9), nearest_k(x, pool, 9, threads=3))


def test_too_few_anchors_and_other_dimensions() -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match="length 25 needs at least 25 anchors, got 2"):
        nearest_k(x, x, 25)
    with pytest.raises(InputError, match="vectors have 3 dimensions, anchors have 2"):
        nearest_k(x, x[:, :2], 1)
