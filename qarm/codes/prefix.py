"""Prefixes of codes as numbers: (c1), (c1, c2), (c1, c2, c3), ..."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qarm.errors import InputError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def prefix_keys(codes: NDArray[np.integer[Any]], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Number of each prefix: the code read as a mixed-radix number, first level first.

    While the levels' sizes multiply to less than 2^63 two prefixes of equal length have equal
    numbers only if they are equal. Beyond, numbers are 63-bit hashes of the prefix: among m
    prefixes, about m^2 / 2^64 share theirs.

    Args:
        codes: (n, L) codes, 0-based.
        sizes: L level sizes.

    Returns:
        (n, L): column l is the number of the prefix of length l + 1.

    Raises:
        InputError: codes have another length than ``sizes``, or a code is out of its level.
    """
    if codes.ndim != 2 or codes.shape[1] != len(sizes):
        raise InputError(f"expected codes of shape (n, {len(sizes)}), got {codes.shape}")
    if len(codes) and (codes.min(initial=0) < 0 or (codes.max(axis=0) >= np.array(sizes)).any()):
        raise InputError(
            f"codes reach from {codes.min()} to {codes.max(axis=0).tolist()}, levels have "
            f"{list(sizes)} centroids; these codes belong to another codebook"
        )
    keys = np.empty(codes.shape, np.int64)
    before = np.zeros(len(codes), np.int64)
    for level, size in enumerate(sizes):
        if math.prod(sizes[: level + 1]) < 2**63:
            before = before * size + codes[:, level]
        else:
            mixed = _mix(before.view(np.uint64) + _GOLDEN) ^ codes[:, level].astype(np.uint64)
            before = (_mix(mixed) >> np.uint64(1)).view(np.int64)
        keys[:, level] = before
    return keys


def hash_prefixes(keys: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """Bucket in [0, buckets) of each prefix; equal numbers of unequal length differ.

    Args:
        keys: (n, L) from ``prefix_keys``.
        buckets: rows of the table.
    """
    lengths = np.arange(1, keys.shape[1] + 1, dtype=np.uint64)
    mixed = _mix(keys.astype(np.uint64) + _mix(lengths * _GOLDEN)[None, :])
    return (mixed % np.uint64(buckets)).astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
