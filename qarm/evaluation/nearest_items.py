"""Nearest items of some queries in vector space and in code space, on arrays.

Each candidate gets an integer key; a larger key is nearer. The low bits of the key are a hash of
the item, so that items at equal distance come in the same arbitrary order in every space and tile.
Distances are float64, rounded to a grid much coarser than their rounding error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_HASH_BITS = 32
#: Resolution of cosines: 2^-29.
_COSINE_STEPS = (1 << 30) - 1
#: Resolution of distances in code space: 2^-26 of the largest possible one.
_DISTANCE_BITS = 26
#: Longest common prefix that a key can hold.
MOST_LEVELS = 31


def tie_breaks(items: NDArray[np.integer[Any]]) -> Ints:
    """(n,) pseudo-random numbers in [0, 2^32), one per item (finaliser of SplitMix64)."""
    x = items.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x >> np.uint64(32)).astype(np.int64)


def unit_rows(x: NDArray[np.floating[Any]]) -> Floats:
    """(n, d) float64 of unit length; zero rows stay zero."""
    wide = x.astype(np.float64)
    norms = np.sqrt((wide**2).sum(axis=1, keepdims=True))
    return np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)


def vector_keys(queries: Floats, x: Floats, ties: Ints) -> Ints:
    """Keys (q, n) by cosine.

    Args:
        queries: (q, d) from ``unit_rows``.
        x: (n, d) likewise.
        ties: (n,) from ``tie_breaks``.
    """
    near = np.clip((_product(queries, x) + 1) / 2, 0, 1) * _COSINE_STEPS
    keys: NDArray[np.int64] = (np.rint(near).astype(np.int64) << _HASH_BITS) | ties
    return keys


def code_keys(
    codes_q: NDArray[np.integer[Any]],
    means_q: Floats,
    codes: NDArray[np.integer[Any]],
    means: Floats,
    ties: Ints,
    scale: float,
) -> Ints:
    """Keys (q, n) by longest common prefix, then by squared distance of reconstructions.

    Args:
        codes_q: (q, L) codes of the queries, L at most ``MOST_LEVELS``.
        means_q: (q, d) their sums of centroids.
        codes: (n, L).
        means: (n, d).
        ties: (n,) from ``tie_breaks``.
        scale: upper bound of the squared distance of two reconstructions.
    """
    same = np.ones((len(codes_q), len(codes)), bool)
    common = np.zeros(same.shape, np.int64)
    for level in range(codes.shape[1]):
        same &= codes_q[:, level, None] == codes[None, :, level]
        common += same
    squares = (means_q**2).sum(axis=1)[:, None] + (means**2).sum(axis=1)[None]
    far = np.clip((squares - 2 * _product(means_q, means)) / scale, 0, 1)
    near = np.rint((1 - far) * ((1 << _DISTANCE_BITS) - 1)).astype(np.int64)
    keys: NDArray[np.int64] = (
        (common << (_DISTANCE_BITS + _HASH_BITS)) | (near << _HASH_BITS) | ties
    )
    return keys


def list_keys(vq_q: NDArray[np.integer[Any]], vq: NDArray[np.integer[Any]], ties: Ints) -> Ints:
    """Keys (q, n) by the number of anchors that two VQ codes share.

    Args:
        vq_q: (q, K) anchors of the queries.
        vq: (n, K) anchors.
        ties: (n,) from ``tie_breaks``.
    """
    anchors, place = np.unique(vq_q, return_inverse=True)
    has = np.zeros((len(anchors) + 1, len(vq_q)), np.int16)  # the last row: anchors in no query
    has[place.reshape(vq_q.shape), np.arange(len(vq_q))[:, None]] = 1
    row = np.searchsorted(anchors, vq)
    row[anchors[np.minimum(row, len(anchors) - 1)] != vq] = len(anchors)
    shared = np.zeros((len(vq), len(vq_q)), np.int16)
    for rank in range(vq.shape[1]):
        shared += has[row[:, rank]]
    return (shared.T.astype(np.int64) << _HASH_BITS) | ties


def _product(a: Floats, b: Floats) -> Floats:
    """A b^T by torch: NumPy's BLAS may have no kernel for the processor."""
    import torch

    product: Floats = (torch.from_numpy(a) @ torch.from_numpy(b).T).numpy()
    return product


@dataclass
class Nearest:
    """The k candidates with the largest keys of each query, over any number of tiles."""

    keys: Ints
    """(q, k), unordered; -1: fewer than k candidates so far."""
    items: Ints
    """(q, k) item_idx; -1 as in ``keys``."""

    @classmethod
    def empty(cls, queries: int, k: int) -> Nearest:
        """No candidates yet."""
        return cls(np.full((queries, k), -1, np.int64), np.full((queries, k), -1, np.int64))

    def add(self, start: int, keys: Ints, items: Ints) -> None:
        """Add the candidates of a tile.

        Args:
            start: query of the first row of ``keys``.
            keys: (q', n) keys; negative for items that are no candidates.
            items: (n,) item_idx.
        """
        rows, k = len(keys), self.keys.shape[1]
        mine = slice(start, start + rows)
        above = keys > self.keys[mine].min(axis=1)[:, None]
        count = above.sum(axis=1)
        width = min(k, keys.shape[1], int(count.max(initial=0)))
        if width == 0:
            return
        # Few candidates of a later tile are nearer than the k nearest so far.
        some = np.flatnonzero(count)
        tile = np.argpartition(keys[some], keys.shape[1] - width, axis=1)[:, -width:]
        both = np.hstack([self.keys[mine][some], np.take_along_axis(keys[some], tile, axis=1)])
        numbers = np.hstack([self.items[mine][some], items[tile]])
        best = np.argpartition(both, both.shape[1] - k, axis=1)[:, -k:]
        self.keys[start + some] = np.take_along_axis(both, best, axis=1)
        self.items[start + some] = np.take_along_axis(numbers, best, axis=1)
        self.items[self.keys < 0] = -1


def tiles(queries: int, candidates: int, cells: int) -> Iterator[slice]:
    """Slices of the queries such that a (queries, candidates) block has at most ``cells`` cells."""
    step = max(1, cells // max(candidates, 1))
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))


def jaccard_by_chance(k: int, candidates: int) -> float:
    """Expected Jaccard index of two random sets of k out of ``candidates`` items."""
    k = min(k, candidates)
    if k == 0:
        return 0.0
    total = comb(candidates, k)
    return sum(
        comb(k, both) * comb(candidates - k, k - both) / total * both / (2 * k - both)
        for both in range(max(0, 2 * k - candidates), k + 1)
    )
