"""Sums of points a cluster that do not depend on the order of the points.

Sums of floats depend on the order in which they are taken, so on threads, files and Spark
partitions. Here each coordinate is rounded to a multiple of the largest one times 2^-32 (float32
itself rounds at 2^-24 of a number) and summed as a 64-bit integer, which is exact. So the means,
and the codebook, are a function of the set of points, whoever sums what.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qarm.kernels.compiled import FINITE, compiled
from qarm.kernels.nearest import Floats, Ints
from qarm.kernels.threads import over_rows

_BITS = 32
"""2^31 points of the largest coordinate fit into a sum."""


@dataclass(eq=False)
class Sums:
    """Sums of the points of each cluster, in units of ``1 / scale``."""

    totals: NDArray[np.int64]
    """(K, d)."""
    sizes: NDArray[np.int64]
    """(K,) points."""
    scale: float

    @classmethod
    def zero(cls, k: int, d: int, scale: float) -> Sums:
        """Of no points."""
        return cls(np.zeros((k, d), np.int64), np.zeros(k, np.int64), scale)

    def add(self, points: Floats, codes: Ints, sign: int = 1) -> None:
        """Add points (n, d) to the clusters ``codes`` (n,); sign -1 takes them out again."""
        _add(points, codes, self.scale, np.int64(sign), self.totals, self.sizes)

    def merge(self, other: Sums) -> None:
        """Add what another thread or task has summed."""
        self.totals += other.totals
        self.sizes += other.sizes

    def means(self, otherwise: Floats) -> Floats:
        """(K, d) means; of a cluster without points, ``otherwise``."""
        filled = self.sizes > 0
        means = otherwise.copy()
        unit = self.sizes[filled, None] * self.scale
        means[filled] = (self.totals[filled] / unit).astype(np.float32)
        return means


def scale_for(largest: float) -> float:
    """Scale of sums of coordinates that are at most ``largest`` in absolute value."""
    return float(2.0 ** (_BITS - np.ceil(np.log2(largest)))) if largest > 0 else 1.0


def sum_clusters(points: Floats, codes: Ints, k: int, *, scale: float, threads: int = 1) -> Sums:
    """Sums of points (n, d) over clusters ``codes`` (n,)."""
    parts: list[Sums] = []

    def work(start: int, stop: int) -> None:
        part = Sums.zero(k, points.shape[1], scale)
        part.add(points[start:stop], codes[start:stop])
        parts.append(part)

    over_rows(work, len(points), threads, 1)
    total = parts.pop() if parts else Sums.zero(k, points.shape[1], scale)
    for part in parts:
        total.merge(part)
    return total


@compiled(fastmath=FINITE)
def _add(points, codes, scale, sign, totals, sizes):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        code = codes[i]
        sizes[code] += sign
        for m in range(points.shape[1]):
            totals[code, m] += sign * np.int64(np.rint(np.float64(points[i, m]) * scale))
