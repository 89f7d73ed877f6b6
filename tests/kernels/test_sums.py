"""Exact sums of clusters."""

from __future__ import annotations

import numpy as np

from qarm.kernels.sums import Sums, scale_for, sum_clusters


def drawn(n=5000, k=17, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, d)) * 10 ** rng.uniform(-4, 2, (n, 1))).astype(np.float32)
    return x, rng.integers(k, size=n).astype(np.int32), scale_for(float(np.abs(x).max()))


def test_means_are_those_of_float64() -> None:
    x, codes, scale = drawn()
    sums = sum_clusters(x, codes, 18, scale=scale)
    expected = [x[codes == c].astype(np.float64).mean(0) for c in range(17)]
    means = sums.means(np.full((18, 6), 7, np.float32))
    np.testing.assert_allclose(means[:17], expected, rtol=2e-7, atol=1e-7)
    assert means[17].tolist() == [7.0] * 6  # a cluster without points
    assert sums.sizes.tolist() == np.bincount(codes, minlength=18).tolist()


def test_parts_add_up_to_the_same_integers() -> None:
    x, codes, scale = drawn()
    whole = sum_clusters(x, codes, 17, scale=scale)
    threads = sum_clusters(x, codes, 17, scale=scale, threads=3)
    order = np.random.default_rng(1).permutation(len(x))
    merged = Sums.zero(17, 6, scale)
    for part in np.array_split(order, 4):
        merged.merge(sum_clusters(x[part], codes[part], 17, scale=scale))
    for each in (threads, merged):
        np.testing.assert_array_equal(each.totals, whole.totals)
        np.testing.assert_array_equal(each.sizes, whole.sizes)


def test_points_can_be_taken_out_again() -> None:
    x, codes, scale = drawn()
    sums = sum_clusters(x, codes, 17, scale=scale)
    sums.add(x[1000:], codes[1000:], -1)
    first = sum_clusters(x[:1000], codes[:1000], 17, scale=scale)
    np.testing.assert_array_equal(sums.totals, first.totals)
    np.testing.assert_array_equal(sums.sizes, first.sizes)


def test_the_largest_coordinates_fit() -> None:
    for largest in (1e-30, 0.99, 1.0, 3e38):
        assert largest * scale_for(largest) <= 2.0**32
        assert largest * scale_for(largest) > 2.0**30
    assert scale_for(0.0) == 1.0
