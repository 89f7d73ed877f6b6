"""Sums of points a cluster that do not depend on the order of the points.

Sums of floats depend on the order in which they are taken, so on threads, files and Spark
partitions. Here each coordinate is rounded to a multiple of the largest one times 2^-32 (float32
itself rounds at 2^-24 of a number) and summed as a 64-bit integer, which is exact. So the means,
and the codebook, are a function of the set of points, whoever sums what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qarm.kernels.nearest import Floats, Ints
from qarm.kernels.threads import FINITE, kernel, over_rows

_BITS = 32
_ONE = 2.0**_BITS
"""2^31 points of the largest coordinate fit into a sum."""


@dataclass(eq=False)
class Sums:
    """Weighted sums of the points of each cluster, in units of ``1 / scale``."""

    ONE: ClassVar[float] = _ONE
    """Weight 1 as it is held in ``mass``."""

    totals: NDArray[np.int64]
    """(K, d)."""
    mass: NDArray[np.int64]
    """(K,) sum of the weights, in units of 2^-32."""
    sizes: NDArray[np.int64]
    """(K,) points."""
    scale: float

    @classmethod
    def zero(cls, k: int, d: int, scale: float) -> Sums:
        """Of no points."""
        return cls(np.zeros((k, d), np.int64), np.zeros(k, np.int64), np.zeros(k, np.int64), scale)

    def add(self, points: Floats, codes: Ints, weights: Floats, sign: int = 1) -> None:
        """Add points (n, d) to the clusters ``codes`` (n,); weights are at most 1. Sign -1: take
        them out."""
        _add(points, codes, weights, self.scale, np.int64(sign), *self._arrays())

    def merge(self, other: Sums) -> None:
        """Add what another thread or task has summed."""
        for mine, others in zip(self._arrays(), other._arrays(), strict=True):
            mine += others

    def merge_rows(self, codes: Ints, *parts: NDArray[np.int64]) -> None:
        """Add sums (totals, mass, sizes) of the clusters ``codes``, which may name one twice."""
        for mine, others in zip(self._arrays(), parts, strict=True):
            _merge(codes, others.reshape(len(codes), -1), mine.reshape(len(mine), -1))

    def means(self, otherwise: Floats) -> Floats:
        """(K, d) means; of a cluster without points, ``otherwise``."""
        filled = self.mass > 0
        means = otherwise.copy()
        unit = self.mass[filled, None] * (self.scale / _ONE)
        means[filled] = (self.totals[filled] / unit).astype(np.float32)
        return means

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.totals, self.mass, self.sizes


def scale_for(largest: float) -> float:
    """Scale of sums of coordinates that are at most ``largest`` in absolute value."""
    return float(2.0 ** (_BITS - np.ceil(np.log2(largest)))) if largest > 0 else 1.0


def sum_clusters(
    points: Floats, codes: Ints, weights: Floats, k: int, *, scale: float, threads: int = 1
) -> Sums:
    """Sums of points (n, d) over clusters ``codes`` (n,); weights (n,) are at most 1."""
    parts: list[Sums] = []

    def work(start: int, stop: int) -> None:
        part = Sums.zero(k, points.shape[1], scale)
        part.add(points[start:stop], codes[start:stop], weights[start:stop])
        parts.append(part)

    over_rows(work, len(points), threads, 1)
    total = parts.pop() if parts else Sums.zero(k, points.shape[1], scale)
    for part in parts:
        total.merge(part)
    return total


@kernel(FINITE)
def _add(points, codes, weights, scale, sign, totals, mass, sizes):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        code = codes[i]
        weight = np.float64(weights[i])
        sizes[code] += sign
        mass[code] += sign * np.int64(np.rint(weight * _ONE))
        weight *= scale
        for m in range(points.shape[1]):
            totals[code, m] += sign * np.int64(np.rint(np.float64(points[i, m]) * weight))


@kernel(FINITE)
def _merge(codes, others, mine):  # type: ignore[no-untyped-def]
    for i in range(len(codes)):
        for m in range(mine.shape[1]):
            mine[codes[i], m] += others[i, m]
