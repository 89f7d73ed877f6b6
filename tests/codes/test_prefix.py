"""Prefixes as numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qarm.codes.prefix import hash_prefixes, prefix_keys
from qarm.errors import InputError


def test_mixed_radix() -> None:
    codes = np.array([[0, 0, 0], [1, 2, 3], [2, 4, 6]])
    keys = prefix_keys(codes, [3, 5, 7])
    assert keys.tolist() == [[0, 0, 0], [1, 7, 52], [2, 14, 104]]
    assert keys.dtype == np.int64
    assert keys[2, 2] == 3 * 5 * 7 - 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([2, 3, 100, 8192, 100_003]), min_size=1, max_size=8), st.integers(0, 9)
)
def test_equal_keys_only_for_equal_prefixes(sizes, seed) -> None:
    """Also beyond 63 bits, where keys are hashes."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, min(size, 3), 400) for size in sizes], 1)
    keys = prefix_keys(codes, sizes)
    assert (keys >= 0).all()
    for length in range(1, len(sizes) + 1):
        prefixes, number = np.unique(codes[:, :length], axis=0, return_inverse=True)
        pairs = {(int(n), int(k)) for n, k in zip(number.ravel(), keys[:, length - 1], strict=True)}
        assert len(pairs) == len(prefixes) == len(np.unique(keys[:, length - 1]))


def test_hashes_spread_and_tell_lengths_apart() -> None:
    keys = prefix_keys(np.stack([np.zeros(5000, int), np.arange(5000)], 1), [10, 5000])
    buckets = hash_prefixes(keys, 1 << 40)
    assert buckets.min() >= 0
    assert len(np.unique(buckets[:, 1])) == 5000
    assert buckets[0, 0] != buckets[0, 1]  # both prefixes are number 0
    counts = np.bincount(hash_prefixes(keys, 100)[:, 1], minlength=100)
    assert counts.min() > 20
    assert counts.max() < 90
    np.testing.assert_array_equal(hash_prefixes(keys, 100), hash_prefixes(keys.copy(), 100))


def test_codes_of_another_codebook() -> None:
    with pytest.raises(InputError, match="belong to another codebook"):
        prefix_keys(np.array([[0, 5]]), [4, 5])
    with pytest.raises(InputError, match="belong to another codebook"):
        prefix_keys(np.array([[-1, 0]]), [4, 5])
    with pytest.raises(InputError, match=r"shape \(n, 3\)"):
        prefix_keys(np.array([[0, 0]]), [4, 5, 6])
    assert prefix_keys(np.empty((0, 2), int), [4, 5]).shape == (0, 2)
