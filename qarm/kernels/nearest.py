"""Nearest centroid, exact: the kernel under Lloyd's algorithm and under residual codes.

Of ||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2) only x.c costs anything. It is computed by a
compiled kernel (``microkernel``) that at once folds each block of products, still in registers,
into three numbers a row: the smallest score ||c||^2 / 2 - x.c, the second smallest, and the code of
the smallest.

That is done in 16-bit fixed point where the processor has instructions for it (``fixed_point``); a
row whose two smallest scores are closer than this can tell is done again in float32, and where they
are closer than float32 can tell (Higham's bound, see ``margin``), by brute force in float64. So
every code is the float64 argmin, ties to the lower code, whatever the batch, the tile, the number
of threads or the processor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qarm.errors import InputError
from qarm.kernels.fixed_point import FixedPoint, Rows, fixed_point
from qarm.kernels.microkernel import MOST, MR, WIDTH, fold_level, pack, tile_of
from qarm.kernels.threads import FINITE, REORDERED, kernel, over_rows

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Numbers = Floats | Ints
"""Parts of vectors; integers in fixed point."""

ROWS = 512
"""Rows that a tile of centroids meets before the next one."""
NO_SCALES = np.empty(0, np.float32)
"""Of panels that are float32."""
TOO_MANY = 0.5
"""Share of doubtful rows from which on fixed point costs more than it saves."""


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
    padded: Floats = field(repr=False)
    """(K'', d) ``vectors``, filled up by zeros to a multiple of the kernel's block."""
    padded_norms: Floats = field(repr=False)
    """(K'',) half norms; those of the filling are so large that it is never chosen."""
    fixed: FixedPoint | None = field(default=None, repr=False)
    """``padded`` in fixed point, where that is faster."""

    @property
    def dimensions(self) -> int:
        """d."""
        return int(self.vectors.shape[1])

    @property
    def tile(self) -> int:
        """Centroids of a tile, a multiple of the kernel's block."""
        return tile_of(self.dimensions)


def prepare(
    centroids: NDArray[np.floating], what: str = "centroids", *, distinct: bool = True
) -> Centroids:
    """Make ``centroids`` (K, d) ready; ``distinct`` leaves out all but the first of equal ones.

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
    fixed = fixed_point(padded, longest)
    return Centroids(padded[:k], codes, norms[:k], longest, padded, norms, fixed)


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
    size = min(ROWS, -(-len(x) // WIDTH) * WIDTH)
    rest = np.empty((size, x.shape[1]), np.float32)
    arg = np.empty(size, np.int32)
    searches = [_Nearest(level, size) for level in levels]
    for start in range(0, len(x), ROWS):
        r = min(ROWS, len(x) - start)
        rest[:r] = x[start : start + r]
        for number, (level, search) in enumerate(zip(levels, searches, strict=True)):
            search.find(rest[:r], arg[:r])
            codes[start : start + r, number] = level.codes[arg[:r]]
            _subtract(rest, r, level.vectors, arg)
        _square(rest, r, left[start : start + r])


class Search(ABC):
    """Centroids of one level that are wanted for each of at most ``size`` rows at a time.

    First by products in fixed point, where the level has them; rows that these leave in doubt by
    products in float32; and who searches knows what to do where these are not enough either.
    """

    def __init__(self, level: Centroids, size: int) -> None:
        self.level = level
        self.panels = np.empty((size // WIDTH, level.dimensions, WIDTH), np.float32)
        self.fixed = level.fixed
        self.rows = None if level.fixed is None else Rows.empty(size, level.dimensions)

    def find(self, x: Floats, found: Ints) -> None:
        """Write what is wanted for each row of x (r, d) to ``found`` (r, ...)."""
        r, fixed, rows = len(x), self.fixed, self.rows
        if fixed is None or rows is None:
            self._find_by_floats(x, found)
            return
        rows.pack(x, r, fixed)
        self._score(rows.panels, rows.scales, r, fixed.pairs, fixed.tile)
        doubtful = np.flatnonzero(~self._choose(x, found, rows.margins[:r]))
        if len(doubtful) > TOO_MANY * r:  # these vectors are too alike: do not try again
            self.fixed = None
        if len(doubtful):
            again = np.empty((len(doubtful), *found.shape[1:]), np.int32)
            self._find_by_floats(x[doubtful], again)
            found[doubtful] = again

    def _find_by_floats(self, x: Floats, found: Ints) -> None:
        pack(x, len(x), self.panels)
        self._score(self.panels, NO_SCALES, len(x), self.level.padded, self.level.tile)
        self._decide(x, found)

    @abstractmethod
    def _score(self, panels: Numbers, scales: Floats, r: int, points: Numbers, tile: int) -> None:
        """Products of ``r`` rows and all centroids, and what of their scores is looked at."""

    @abstractmethod
    def _choose(self, x: Floats, found: Ints, margins: Floats) -> NDArray[np.bool_]:
        """Write what these scores say; (r,) whether it is certain, if scores that differ by more
        than the row's margin are in true order."""

    @abstractmethod
    def _decide(self, x: Floats, found: Ints) -> None:
        """Write what is true, by scores in float32 and, where they leave a doubt, by float64."""


class _Nearest(Search):
    """The place of the nearest centroid."""

    def __init__(self, level: Centroids, size: int) -> None:
        super().__init__(level, size)
        self.margin = margin(level)
        self.best, self.second = np.empty((2, size), np.float32)
        self.arg = np.empty(size, np.int32)

    def _score(self, panels: Numbers, scales: Floats, r: int, points: Numbers, tile: int) -> None:
        norms = self.level.padded_norms
        fold_level(panels, scales, r, points, norms, tile, self.best, self.second, self.arg)

    def _choose(self, x: Floats, found: Ints, margins: Floats) -> NDArray[np.bool_]:
        r = len(x)
        found[:] = self.arg[:r]
        return self.second[:r] - self.best[:r] > margins

    def _decide(self, x: Floats, found: Ints) -> None:
        r = len(x)
        _decide(x, r, self.level.vectors, self.best, self.second, self.arg, *self.margin)
        found[:] = self.arg[:r]


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
        least = np.float64(MOST) * 1e200
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
