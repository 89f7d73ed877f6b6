"""Matches a refit to its parent codebook: first centres, and the numbers of its clusters.

``refresh`` describes the method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qarm.codes.kmeans import kmeans
from qarm.kernels.nearest import Floats, Ints, nearest

Numbers = NDArray[np.int64]


def warm_start(
    x: Floats,
    old: Ints,
    sizes: Sequence[int],
    *,
    parent: Sequence[Floats] | None = None,
    seed: int = 0,
) -> list[Floats]:
    """Centres to start a refit from.

    Args:
        x: (n, d) vectors.
        old: (n, L') codes under the parent codebook; -1: not known.
        sizes: centroids of each level of the refit; L of them.
        parent: centroids of the parent where it is of the same encoder; for codes without items.
        seed: of centres for which there is neither (k-means++).

    Returns:
        L arrays (K_l, d).
    """
    rest = x
    start: list[Floats] = []
    for number, size in enumerate(sizes):
        codes = old[:, number] if number < old.shape[1] else np.full(len(x), -1, np.int32)
        rows = np.flatnonzero((codes >= 0) & (codes < size))
        centres = _means(rest[rows], codes[rows], size)
        known = np.bincount(codes[rows], minlength=size) > 0
        if parent is not None and number < old.shape[1]:
            spare = np.flatnonzero(~known[: len(parent[number])])
            centres[spare] = parent[number][spare]
            known[spare] = True
        if not known.all():
            drawn = kmeans(rest, int((~known).sum()), iterations=1, seed=(seed, number, 1))
            centres[~known] = drawn.centroids
        # Rows without an old code that the level still has go to the nearest centre.
        others = np.setdiff1d(np.arange(len(x)), rows, assume_unique=True)
        codes = codes.copy()
        if len(others):
            codes[others] = nearest(rest[others], centres)[0]
        rest = rest - centres[codes]
        start.append(centres)
    return start


def _means(x: Floats, codes: Ints, size: int) -> Floats:
    """(K, d) mean of the rows of each code, summed in float64; zeros for one without rows."""
    counts = np.maximum(np.bincount(codes, minlength=size), 1)
    sums = [np.bincount(codes, weights=column, minlength=size) for column in x.T]
    means: Floats = (np.stack(sums, axis=1) / counts[:, None]).astype(np.float32)
    return means


def match(old: Ints, new: Ints, sizes: Sequence[int]) -> list[Numbers]:
    """Number of each cluster of a refit, level by level; see ``refresh``.

    Args:
        old: (n, L') codes of items under the parent codebook.
        new: (n, L) codes of the same items as fitted.
        sizes: clusters of each level of the refit. Levels beyond L' keep their numbers.

    Returns:
        L arrays (K_l,): cluster j of level l is number ``result[l][j]``, a permutation.
    """
    numbers: list[Numbers] = []
    stays = np.ones(len(old), np.bool_)
    for level, size in enumerate(sizes):
        if level >= old.shape[1]:
            numbers.append(np.arange(size))
            continue
        a, b = old[:, level].astype(np.int64), new[:, level].astype(np.int64)
        fits = a < size  # a number beyond the level's new size cannot be kept
        pairs, inverse = np.unique(a[fits] * size + b[fits], return_inverse=True)
        every = np.bincount(inverse, minlength=len(pairs))
        stable = np.bincount(inverse, weights=stays[fits], minlength=len(pairs))
        # Lexicographic, as integers that float64 holds: stable items first, then all.
        weights = stable * (len(old) + 1.0) + every
        row_of = best_pairs(pairs // size, pairs % size, weights, size)
        free = np.setdiff1d(np.arange(size), row_of)
        without = np.flatnonzero(row_of < 0)
        own = np.intersect1d(free, without)
        row_of[own] = own
        row_of[np.setdiff1d(without, own)] = np.setdiff1d(free, own)
        numbers.append(row_of)
        stays &= row_of[b] == a
    return numbers


def best_pairs(rows: Numbers, columns: Numbers, weights: NDArray[np.float64], size: int) -> Numbers:
    """Assignment of rows to columns of largest total weight; weights are sparse, positive.

    A pair whose weight is at least the next best of its row plus the next best of its column
    belongs to an optimum: exchanging it for any two others gains nothing. After a warm start this
    decides nearly all of a level without a matrix; the rest is solved by connected components
    (Jonker and Volgenant, in scipy).

    Args:
        rows: (m,) row of each weight, in [0, size).
        columns: (m,) its column.
        weights: (m,) its value; a pair occurs once.
        size: rows and columns.

    Returns:
        (size,) row of each column; -1: none shares a weight with it and is free.
    """
    row_of = np.full(size, -1, np.int64)
    while len(rows):
        _, row_second, row_best = _top_two(rows, weights, size)
        _, column_second, column_best = _top_two(columns, weights, size)
        here = np.arange(len(rows))
        clear = (row_best[rows] == here) & (column_best[columns] == here)
        clear &= weights >= row_second[rows] + column_second[columns]
        if not clear.any():
            break
        row_of[columns[clear]] = rows[clear]
        gone_rows, gone_columns = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        gone_rows[rows[clear]] = True
        gone_columns[columns[clear]] = True
        left = ~(gone_rows[rows] | gone_columns[columns])
        rows, columns, weights = rows[left], columns[left], weights[left]
    for part_rows, part_columns, part_weights in _components(rows, columns, weights, size):
        for row, column in _solve(part_rows, part_columns, part_weights):
            row_of[column] = row
    return row_of


def _top_two(
    index: Numbers, weights: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], Numbers]:
    """Largest and second largest weight of each index (0: none), and the place of the largest."""
    first, second = np.zeros(size), np.zeros(size)
    best = np.full(size, -1, np.int64)
    order = np.lexsort((-weights, index))
    begins = np.flatnonzero(np.append(True, index[order][1:] != index[order][:-1]))
    keys = index[order][begins]
    first[keys], best[keys] = weights[order][begins], order[begins]
    after = begins + 1
    after, keys = after[after < len(order)], keys[after < len(order)]
    same = index[order][after] == keys
    second[keys[same]] = weights[order][after[same]]
    return first, second, best


def _components(
    rows: Numbers, columns: Numbers, weights: NDArray[np.float64], size: int
) -> Iterator[tuple[Numbers, Numbers, NDArray[np.float64]]]:
    """Parts of the graph of pairs that have neither row nor column in common."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(rows):
        return
    graph = coo_matrix((np.ones(len(rows)), (rows, columns + size)), shape=(2 * size, 2 * size))
    label = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(label, kind="stable")
    cuts = np.flatnonzero(np.diff(label[order])) + 1
    for part in np.split(order, cuts):
        yield rows[part], columns[part], weights[part]


def _solve(rows: Numbers, columns: Numbers, weights: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs (row, column) of largest total weight; pairs of weight 0 are left out."""
    from scipy.optimize import linear_sum_assignment

    row_ids, r = np.unique(rows, return_inverse=True)
    column_ids, c = np.unique(columns, return_inverse=True)
    matrix = np.zeros((len(row_ids), len(column_ids)))
    matrix[r, c] = weights
    chosen_rows, chosen_columns = linear_sum_assignment(matrix, maximize=True)
    real = matrix[chosen_rows, chosen_columns] > 0
    pairs = zip(row_ids[chosen_rows[real]], column_ids[chosen_columns[real]], strict=True)
    return [(int(row), int(column)) for row, column in pairs]


def renumber(levels: Sequence[Floats], numbers: Sequence[Numbers]) -> list[Floats]:
    """The same centroids with cluster j of level l called ``numbers[l][j]``."""
    moved = []
    for centroids, number in zip(levels, numbers, strict=True):
        moved.append(np.empty_like(centroids))
        moved[-1][number] = centroids
    return moved


def changed(old: Ints, new: Ints) -> tuple[list[float], list[float]]:
    """Share of items whose code of each level differs, and whose prefix up to it does.

    For the levels that both have; codes are (n, L') and (n, L).
    """
    levels = min(old.shape[1], new.shape[1])
    differs = old[:, :levels] != new[:, :levels]
    prefix = np.logical_or.accumulate(differs, axis=1)
    return differs.mean(axis=0).tolist(), prefix.mean(axis=0).tolist()


def keep_anchor_numbers(old: Numbers, new: Numbers) -> Numbers:
    """Order of the new pool in which anchors that stay keep their number.

    Args:
        old: (N',) items of the parent's anchors; -1: not an item of the catalogue.
        new: (N,) items of the new pool, in the order of its rule.

    Returns:
        (N,) places of ``new``: anchor number a is item ``new[result[a]]``. The gaps are filled in
        the order of the rule.
    """
    n = len(new)
    order = np.full(n, -1, np.int64)
    number = {int(item): a for a, item in enumerate(old[:n]) if item >= 0}
    known = np.array([number.get(int(item), -1) for item in new], np.int64)
    stays = known >= 0
    order[known[stays]] = np.flatnonzero(stays)
    order[order < 0] = np.flatnonzero(~stays)
    return order
