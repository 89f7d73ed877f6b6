"""Nearest centroid, exact: the kernel under Lloyd's algorithm and under residual codes.

Of ||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2) only x.c costs anything. A compiled kernel
(``microkernel``) computes it and at once folds each block of products, still in registers, into
three numbers per row: the smallest score ||c||^2 / 2 - x.c, the second smallest, and the code of
the smallest.

Products are float32. Rows whose two smallest scores are closer than float32 can tell apart
(Higham's bound, see ``margin``) are decided by brute force in float64. So every code is the float64
argmin, ties to the lower code, whatever the batch, the tile, the number of threads or the
processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qarm.errors import InputError
from qarm.kernels.compiled import REORDERED, compiled
from qarm.kernels.microkernel import MOST, MR, WIDTH, fold_level, pack, tile_of
from qarm.kernels.residuals import square_rows, subtract
from qarm.kernels.threads import over_rows

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

ROWS = 512
"""Rows per batch; each tile of centroids is multiplied with all of them before the next tile."""


def as_matrix(x: NDArray[np.floating[Any]], what: str) -> Floats:
    """``x`` as a C-contiguous float32 matrix.

    Raises:
        InputError: not two-dimensional, or NaN or infinity in it; says how many rows.
    """
    if x.ndim != 2:
        raise InputError(f"{what}: expected a matrix (rows, dimensions), got shape {x.shape}")
    matrix = np.ascontiguousarray(x, dtype=np.float32)
    # One sum sees any NaN or infinity; only then look where. Squares could overflow, values not.
    if not np.isfinite(matrix.sum(dtype=np.float64)):
        bad = ~np.isfinite(matrix).all(axis=1)
        raise InputError(
            f"{what}: {int(bad.sum())} of {len(matrix)} vectors have NaN or infinity, the first in "
            f"row {int(bad.argmax())}; leave such rows out or repair them"
        )
    return matrix


@dataclass(frozen=True, eq=False)
class Centroids:
    """Centroids prepared for the kernel; ``prepare`` creates it.

    Equal centroids would send each of their rows to the float64 pass, so only the first of them
    is used by ``encode``: the lower code wins a tie anyway.
    """

    vectors: Floats
    """(K', d) distinct centroids, in order of their codes."""
    codes: Ints
    """(K',) code of each."""
    half_norms: Floats
    """(K',) ||c||^2 / 2, rounded from float64."""
    longest: float
    """Largest ||c||."""
    padded: Floats = field(repr=False)
    """(K'', d) ``vectors``, padded with zeros to a multiple of the kernel's block."""
    padded_norms: Floats = field(repr=False)
    """(K'',) half norms; those of the filling are so large that it is never chosen."""

    @property
    def dimensions(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    @property
    def tile(self) -> int:
        """Centroids of a tile, a multiple of the kernel's block."""
        return tile_of(self.dimensions)


def prepare(
    centroids: NDArray[np.floating[Any]], what: str = "centroids", *, distinct: bool = True
) -> Centroids:
    """Prepare ``centroids`` (K, d); ``distinct`` leaves out all but the first of equal ones.

    Raises:
        InputError: no matrix, empty, or NaN in it.
    """
    matrix = as_matrix(centroids, what)
    if matrix.size == 0:
        raise InputError(f"{what}: expected at least one vector, got shape {matrix.shape}")
    codes = np.arange(len(matrix), dtype=np.int32)
    if distinct:
        codes = np.sort(np.unique(matrix, axis=0, return_index=True)[1]).astype(np.int32)
    k = len(codes)
    padded = np.zeros((-(-k // MR) * MR, matrix.shape[1]), np.float32)
    padded[:k] = matrix if k == len(matrix) else matrix[codes]
    squares = (padded[:k].astype(np.float64) ** 2).sum(axis=1)
    norms = np.full(len(padded), MOST, np.float32)
    norms[:k] = squares / 2
    longest = float(np.sqrt(squares.max()))
    return Centroids(padded[:k], codes, norms[:k], longest, padded, norms)


def nearest(
    x: NDArray[np.floating[Any]],
    centroids: Centroids | NDArray[np.floating[Any]],
    *,
    threads: int = 1,
) -> tuple[Ints, Floats]:
    """Nearest centroid of each row.

    Args:
        x: (n, d) vectors.
        centroids: (K, d), or prepared by ``prepare``.
        threads: number of threads; the result does not depend on it.

    Returns:
        (n,) codes, ties to the lower; (n,) squared distances.

    Raises:
        InputError: dimensions differ, or NaN or infinity.
    """
    ready = centroids if isinstance(centroids, Centroids) else prepare(centroids)
    codes, distances = encode(x, [ready], threads=threads)
    return codes[:, 0], distances


def encode(
    x: NDArray[np.floating[Any]], levels: Sequence[Centroids], *, threads: int = 1
) -> tuple[Ints, Floats]:
    """Greedy residual codes: nearest centroid, subtract it, next level.

    Args:
        x: (n, d) vectors.
        levels: prepared centroids of each level; empty gives codes of length 0.
        threads: as in ``nearest``.

    Returns:
        (n, L) codes; (n,) squared length of what is left after the last level.

    Raises:
        InputError: dimensions differ, or NaN or infinity.
    """
    matrix = as_matrix(x, "vectors")
    for number, level in enumerate(levels):
        if level.dimensions != matrix.shape[1]:
            raise InputError(
                f"vectors have {matrix.shape[1]} dimensions, centroids of level {number} have "
                f"{level.dimensions}; use the codebook that was fitted on such vectors"
            )
    codes = np.empty((len(matrix), len(levels)), np.int32)
    left = np.empty(len(matrix), np.float32)

    def work(start: int, stop: int) -> None:
        _encode(matrix[start:stop], levels, codes[start:stop], left[start:stop])

    over_rows(work, len(matrix), threads, ROWS)
    return codes, left


def _encode(x: Floats, levels: Sequence[Centroids], codes: Ints, left: Floats) -> None:
    size = min(ROWS, -(-len(x) // WIDTH) * WIDTH)
    d = x.shape[1]
    rest = np.empty((size, d), np.float32)
    panels = np.empty((size // WIDTH, d, WIDTH), np.float32)
    best, second = np.empty((2, size), np.float32)
    arg = np.empty(size, np.int32)
    margins = [margin(level) for level in levels]
    for start in range(0, len(x), ROWS):
        r = min(ROWS, len(x) - start)
        rest[:r] = x[start : start + r]
        for number, level in enumerate(levels):
            pack(rest, r, panels)
            fold_level(panels, r, level.padded, level.padded_norms, level.tile, best, second, arg)
            _decide(rest[:r], level.vectors, best, second, arg, *margins[number])
            codes[start : start + r, number] = level.codes[arg[:r]]
            subtract(rest[:r], level.vectors, arg)
        square_rows(rest[:r], left[start : start + r])


def margin(level: Centroids) -> tuple[float, float]:
    """(a, b): float32 scores of a row x whose difference exceeds a ||x|| + b are in true order.

    A dot product of d terms in floating point is off by at most d u ||x|| ||c|| / (1 - d u), in any
    order of summation (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); rounding the
    half norm and the difference adds u ||c||^2 / 2 and u |score|. Twice, for two scores. Where
    float32 underflows, errors are no longer relative: the last term.
    """
    u = 2.0**-24
    d = level.dimensions
    a = 2 * u * (d / (1 - d * u) + 1) * level.longest
    b = 2 * u * level.longest**2 + 2.0**-126
    return a, b


@compiled(fastmath=REORDERED)
def _decide(x, centroids, best, second, arg, slope, offset):  # type: ignore[no-untyped-def]
    """Decide rows whose two best scores are within the margin by float64 brute force."""
    d = x.shape[1]
    for i in range(len(x)):
        square = np.float64(0)
        for m in range(d):
            square += np.float64(x[i, m]) * np.float64(x[i, m])
        if np.float64(second[i]) - np.float64(best[i]) > slope * np.sqrt(square) + offset:
            continue
        least = np.float64(MOST) * 1e200
        for j in range(len(centroids)):
            distance = np.float64(0)
            for m in range(d):
                difference = np.float64(x[i, m]) - np.float64(centroids[j, m])
                distance += difference * difference
            if distance < least:
                least = distance
                arg[i] = j
