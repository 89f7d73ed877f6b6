"""Products in 16-bit fixed point: never off by more than they say, and codes as without them."""

from __future__ import annotations

import dataclasses

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.codes.anchors import nearest_k, prepare_anchors
from qarm.kernels import microkernel
from qarm.kernels.fixed_point import FEWEST, Rows, fixed_point
from qarm.kernels.microkernel import HAS_PAIRS, WIDTH, fold_level
from qarm.kernels.nearest import ROWS, _Nearest, encode, prepare

pytestmark = pytest.mark.skipif(not HAS_PAIRS, reason="the processor has no such products")
K = FEWEST + 5


def folded(x, level):
    """Smallest score and its code of each row, and the margins."""
    size = -(-len(x) // WIDTH) * WIDTH
    rows = Rows.empty(size, level.dimensions)
    rows.pack(x, len(x), level.fixed)
    best, second = np.empty((2, size), np.float32)
    arg = np.empty(size, np.int32)
    fold_level(
        rows.panels, rows.scales, len(x), level.fixed.pairs, level.padded_norms, level.fixed.tile,
        best, second, arg,
    )  # fmt: skip
    n = len(x)
    return best[:n].astype(np.float64), arg[:n], rows.margins[:n].astype(np.float64)


def scores(x, centroids):
    wide = centroids.astype(np.float64)
    return (wide**2).sum(1) / 2 - x.astype(np.float64) @ wide.T


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 41),
    st.sampled_from([1e-12, 1e-3, 1.0, 300.0, 1e9]),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from(["normal", "one part", "equal parts", "far from the origin"]),
    st.integers(0, 99),
)
def test_no_score_is_off_by_more_than_half_the_margin(n, d, scale, other, kind, seed) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    centroids = rng.standard_normal((K, d))
    if kind == "one part":
        x *= rng.integers(0, d, (n, 1)) == np.arange(d)
        centroids *= rng.integers(0, d, (K, 1)) == np.arange(d)
    elif kind == "equal parts":  # the sum of products is as large as it can get
        x[:], centroids[:] = x[:, :1], centroids[:, :1]
    elif kind == "far from the origin":
        x, centroids = x * 0.01 + 1, centroids * 0.01 + 1
    x, centroids = (scale * x).astype(np.float32), (scale * other * centroids).astype(np.float32)
    level = prepare(centroids, distinct=False)
    assert level.fixed is not None
    best, arg, margins = folded(x, level)
    exact = scores(x, level.vectors)
    assert (np.abs(best - exact[np.arange(n), arg]) <= margins / 2).all()
    assert (exact.min(1) >= best - margins / 2).all()


def test_the_margin_is_narrow() -> None:
    """Else every row would be done twice."""
    rng = np.random.default_rng(0)
    x, centroids = (rng.standard_normal((n, 64)).astype(np.float32) for n in (500, 4000))
    level = prepare(centroids)
    _, _, margins = folded(x, level)
    lengths = np.linalg.norm(x, axis=1)
    assert (margins < 6e-4 * lengths * level.longest).all()
    search = _Nearest(level, ROWS)
    seen = []
    by_floats = search._find_by_floats
    search._find_by_floats = lambda x, found: (seen.append(len(x)), by_floats(x, found))[1]
    search.find(x, np.empty(len(x), np.int32))
    assert sum(seen) < 25


@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_zeros_and_lengths_that_float32_can_hardly_hold(d) -> None:
    rng = np.random.default_rng(d)
    centroids = rng.standard_normal((K, d)).astype(np.float32)
    x = rng.standard_normal((50, d)).astype(np.float32) * np.float32(1e-18)
    x[::3] = 0
    for scale in (np.float32(1), np.float32(1e-14), np.float32(1e14)):
        level = prepare(scale * centroids)
        without = dataclasses.replace(level, fixed=None)
        for rows in (x, x / scale):
            np.testing.assert_array_equal(encode(rows, [level])[0], encode(rows, [without])[0])


def test_centroids_that_are_too_alike_are_left_to_floats() -> None:
    rng = np.random.default_rng(1)
    centroids = (1 + 1e-5 * rng.standard_normal((K, 24))).astype(np.float32)
    x = (1 + 1e-5 * rng.standard_normal((600, 24))).astype(np.float32)
    level = prepare(centroids)
    search = _Nearest(level, 608)
    expected, found = scores(x, level.vectors).argmin(1), np.empty(len(x), np.int32)
    for _ in range(2):
        search.find(x, found)
        np.testing.assert_array_equal(found, expected)
        assert search.fixed is None


@pytest.mark.parametrize(("n", "d"), [(1, 3), (ROWS + 1, 33), (700, 128)])
def test_codes_are_those_without_it(n, d) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, d)).astype(np.float32)
    x[n // 2 :] = np.round(x[n // 2 :])  # ties
    levels = [prepare(np.round(rng.standard_normal((k, d))).astype(np.float32)) for k in (K, 999)]
    without = [dataclasses.replace(level, fixed=None) for level in levels]
    for one, other in zip(encode(x, levels), encode(x, without), strict=True):
        np.testing.assert_array_equal(one, other)
    anchors = prepare_anchors(np.round(2 * rng.standard_normal((K, d))).astype(np.float32))
    plain = dataclasses.replace(anchors, fixed=None)
    assert anchors.fixed is not None
    np.testing.assert_array_equal(nearest_k(x, anchors, 25), nearest_k(x, plain, 25))


def test_what_gains_nothing_or_does_not_fit_has_none() -> None:
    assert prepare(np.ones((FEWEST // 2, 3), np.float32)).fixed is None
    assert fixed_point(np.zeros((504, 3), np.float32), 0.0) is None
    assert fixed_point(np.full((504, 1), 1e16, np.float32), 1e16) is None


def test_rows_that_do_not_fit_are_never_certain() -> None:
    level = prepare(np.random.default_rng(2).standard_normal((K, 5)).astype(np.float32))
    x = np.array([[1e-16] * 5, [1e16] * 5, [0] * 5], np.float32)
    _, _, margins = folded(x, level)
    assert (margins[:2] > 1e38).all()
    assert margins[2] < 1e-5  # what float32 rounds of a half norm


def test_numba_can_be_told_not_to_use_the_instructions(monkeypatch) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    assert not microkernel._has_pairs()
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+avx512f,+avx512vnni")
    assert microkernel._has_pairs()
    monkeypatch.setattr(numba.config, "ENABLE_AVX", 0)
    assert not microkernel._has_pairs()
