"""Nearest centroid, exact: the kernel under Lloyd's algorithm and under residual codes.

Of ||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2) only x.c costs anything. torch computes it in
float32 for a tile of 512 centroids by 256 rows, small enough to stay in the second-level cache, and
a compiled kernel at once folds the tile into three numbers a row: the smallest score
||c||^2 / 2 - x.c, the second smallest, and the code of the smallest. Rows lie along the tile's fast
axis, so the kernel is vector instructions with no branch (torch's own argmin takes two thirds of
the time of addmm + argmin).

Where the two smallest scores are closer than float32 can tell (Higham's bound, see ``_margin``),
the row is decided again by brute force in float64. So every code is the float64 argmin, ties to the
lower code, whatever the batch, the tile, the number of threads or the BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qarm.codes.compiled import FINITE, REORDERED, kernel, over_rows
from qarm.errors import InputError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_MOST = float(np.finfo(np.float32).max)  # where a search starts; infinity is promised away

ROWS = 256
"""Rows of a tile."""
CENTROIDS = 512
"""Centroids of a tile."""


def as_matrix(x: NDArray[np.floating], what: str) -> Floats:
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
            f"row {int(bad.argmax())}; leave such rows out or mend them"
        )
    return matrix


@dataclass(frozen=True, eq=False)
class Centroids:
    """Centroids made ready for the kernel; make with ``prepare``.

    Equal centroids would send each of their rows to the float64 pass, so only the first of them
    takes part in ``encode``: the lower code wins a tie anyway.
    """

    vectors: Floats
    """(K', d) centroids that take part, in order of their codes."""
    codes: Ints
    """(K',) code of each."""
    half_norms: Floats
    """(K',) ||c||^2 / 2, rounded from float64."""
    longest: float
    """Largest ||c||."""
    tiles: list[tuple[torch.Tensor, Floats, int]] = field(repr=False)
    """(centroids of the tile, their half norms, first row)."""

    @property
    def dimensions(self) -> int:
        """d."""
        return int(self.vectors.shape[1])


def prepare(
    centroids: NDArray[np.floating], what: str = "centroids", *, distinct: bool = True
) -> Centroids:
    """Make ``centroids`` (K, d) ready; ``distinct`` leaves out all but the first of equal ones.

    Raises:
        InputError: no matrix, empty, or NaN in it.
    """
    import torch

    matrix = as_matrix(centroids, what)
    if matrix.size == 0:
        raise InputError(f"{what}: expected at least one vector, got shape {matrix.shape}")
    codes = np.arange(len(matrix), dtype=np.int32)
    if distinct:
        codes = np.sort(np.unique(matrix, axis=0, return_index=True)[1]).astype(np.int32)
    vectors = matrix if len(codes) == len(matrix) else matrix[codes]
    if not vectors.flags.writeable:  # torch warns of read-only memory
        vectors = vectors.copy()
    squares = (vectors.astype(np.float64) ** 2).sum(axis=1)
    half_norms = (squares / 2).astype(np.float32)
    tensor = torch.from_numpy(vectors)
    tiles = [
        (tensor[start : start + CENTROIDS], half_norms[start : start + CENTROIDS], start)
        for start in range(0, len(vectors), CENTROIDS)
    ]
    return Centroids(vectors, codes, half_norms, float(np.sqrt(squares.max())), tiles)


def nearest(
    x: NDArray[np.floating], centroids: Centroids | NDArray[np.floating], *, threads: int = 1
) -> tuple[Ints, Floats]:
    """Nearest centroid of each row.

    Args:
        x: (n, d) vectors.
        centroids: (K, d), or made ready by ``prepare``.
        threads: rows are split over so many threads; the result does not depend on it.

    Returns:
        (n,) codes, ties to the lower; (n,) squared distances.

    Raises:
        InputError: dimensions differ, or NaN or infinity.
    """
    ready = centroids if isinstance(centroids, Centroids) else prepare(centroids)
    codes, distances = encode(x, [ready], threads=threads)
    return codes[:, 0], distances


def encode(
    x: NDArray[np.floating], levels: Sequence[Centroids], *, threads: int = 1
) -> tuple[Ints, Floats]:
    """Greedy residual codes: nearest centroid, subtract it, next level.

    Args:
        x: (n, d) vectors.
        levels: centroids of each level, made ready; empty gives codes of length 0.
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
    import torch

    rest_t = torch.empty(ROWS, x.shape[1])
    rest: Floats = rest_t.numpy()
    products_t = torch.empty(CENTROIDS * ROWS)
    products: Floats = products_t.numpy()
    best, second = np.empty(ROWS, np.float32), np.empty(ROWS, np.float32)
    arg = np.empty(ROWS, np.int32)
    for start in range(0, len(x), ROWS):
        r = min(ROWS, len(x) - start)
        rest[:r] = x[start : start + r]
        rows = rest_t[:r].T
        for number, level in enumerate(levels):
            best.fill(_MOST)
            second.fill(_MOST)
            for tile, half_norms, first in level.tiles:
                k = len(half_norms)
                torch.mm(tile, rows, out=products_t[: k * r].view(k, r))
                _fold(products[: k * r].reshape(k, r), half_norms, first, best, second, arg)
            margin = _margin(level)
            _decide(rest, r, level.vectors, best, second, arg, margin[0], margin[1])
            codes[start : start + r, number] = level.codes[arg[:r]]
            _subtract(rest, r, level.vectors, arg)
        _square(rest, r, left[start : start + r])


def _margin(level: Centroids) -> tuple[float, float]:
    """(a, b): float32 scores of a row x whose difference exceeds a ||x|| + b are in true order.

    A dot product of d terms in floating point is off by at most d u ||x|| ||c|| / (1 - d u), in any
    order of summation (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); rounding the
    half norm and the difference adds u ||c||^2 / 2 and u |score|. Twice, for two scores.
    """
    u = 2.0**-24
    d = level.dimensions
    a = 2 * u * (d / (1 - d * u) + 1) * level.longest
    b = 2 * u * level.longest**2
    return a, b


@kernel(FINITE)
def _fold(products, half_norms, first, best, second, arg):  # type: ignore[no-untyped-def]
    """Fold a tile (k, r) of products into the running best, second best and code of each row."""
    k, r = products.shape
    whole = k - k % 4
    for j in range(0, whole, 4):  # four centroids a pass: one load and store of the running values
        h0, h1, h2, h3 = half_norms[j], half_norms[j + 1], half_norms[j + 2], half_norms[j + 3]
        c0, c1 = np.int32(first + j), np.int32(first + j + 1)
        c2, c3 = np.int32(first + j + 2), np.int32(first + j + 3)
        for i in range(r):
            a, b, g = best[i], second[i], arg[i]
            s = h0 - products[j, i]
            b = min(b, max(a, s))
            g = c0 if s < a else g
            a = min(a, s)
            s = h1 - products[j + 1, i]
            b = min(b, max(a, s))
            g = c1 if s < a else g
            a = min(a, s)
            s = h2 - products[j + 2, i]
            b = min(b, max(a, s))
            g = c2 if s < a else g
            a = min(a, s)
            s = h3 - products[j + 3, i]
            b = min(b, max(a, s))
            g = c3 if s < a else g
            a = min(a, s)
            best[i], second[i], arg[i] = a, b, g
    for j in range(whole, k):
        code = np.int32(first + j)
        for i in range(r):
            a = best[i]
            s = half_norms[j] - products[j, i]
            second[i] = min(second[i], max(a, s))
            arg[i] = code if s < a else arg[i]
            best[i] = min(a, s)


@kernel(REORDERED)
def _decide(x, r, centroids, best, second, arg, slope, offset):  # type: ignore[no-untyped-def]
    """Decide rows whose two best scores are within the margin by float64 brute force."""
    d = x.shape[1]
    for i in range(r):
        square = np.float64(0)
        for m in range(d):
            square += np.float64(x[i, m]) * np.float64(x[i, m])
        if np.float64(second[i]) - np.float64(best[i]) > slope * np.sqrt(square) + offset:
            continue
        least = np.float64(_MOST) * 1e200
        for j in range(len(centroids)):
            distance = np.float64(0)
            for m in range(d):
                difference = np.float64(x[i, m]) - np.float64(centroids[j, m])
                distance += difference * difference
            if distance < least:
                least = distance
                arg[i] = j


@kernel(FINITE)
def _subtract(x, r, centroids, arg):  # type: ignore[no-untyped-def]
    """x[i] -= centroids[arg[i]]."""
    for i in range(r):
        for m in range(x.shape[1]):
            x[i, m] -= centroids[arg[i], m]


@kernel(REORDERED)
def _square(x, r, out):  # type: ignore[no-untyped-def]
    """Squared length of each row."""
    for i in range(r):
        total = np.float64(0)
        for m in range(x.shape[1]):
            total += np.float64(x[i, m]) * np.float64(x[i, m])
        out[i] = total
