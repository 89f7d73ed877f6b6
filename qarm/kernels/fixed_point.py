"""Vectors in 16-bit fixed point: the processor sums their products twice as fast, without error.

A vector v becomes integers i with a step t, v = t i + e, where no part of e is much above t / 2.
Steps are such that the lengths of the integers of a row and of a centroid have a product below
2^31: then no sum of products, whole or partial, leaves 32 bits (Cauchy and Schwarz). So x.c is off
by at most |e_x| |c| + |t i_x| |e_c|, some 10^-4 of |x| |c|, and by what float32 rounds afterwards.
Rows whose scores are nearer to each other than that are decided again with float32
(``qarm.kernels.nearest``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qarm.kernels.microkernel import HAS_PAIRS, MOST, MR, WIDTH, tile_of
from qarm.kernels.threads import REORDERED, kernel

_LONGEST = 46_340
"""The largest whole number whose square is below 2^31."""
_LARGEST = 32_767
_HALF = 0.51
"""Largest error of a part, in steps: a half, and what float32 adds to it."""
_SHORT, _LONG = 1e-15, 1e15
"""Of vectors whose lengths are between these, no product leaves float32."""
_BLOCK = 1024 * MR
"""Centroids that are turned at once."""
FEWEST = 256
"""Centroids from which on a level gains more by products than it loses by packing rows."""


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """Centroids as pairs of integers; make with ``fixed_point``."""

    pairs: NDArray[np.int32] = field(repr=False)
    """(K'', ceil(d / 2)), as ``microkernel.fold_level`` wants them: dimensions 2 m and 2 m + 1 in
    one number, MR centroids side by side."""
    step: float
    """What one is worth."""
    error: float
    """Largest |e_c|."""
    longest: float
    """Largest |c|."""

    @property
    def tile(self) -> int:
        """Centroids of a tile, a multiple of the kernel's block."""
        return tile_of(self.pairs.shape[1])


def fixed_point(centroids: NDArray[np.float32], longest: float) -> FixedPoint | None:
    """``centroids`` (K'', d) in fixed point.

    None where the processor has no products of integers, where the centroids are too few to gain
    by it, and where they are too long or too short, or have too many dimensions.

    Args:
        centroids: K'' is a multiple of MR.
        longest: largest length.
    """
    k, d = centroids.shape
    longest_whole = _LONGEST - math.sqrt(d) * _HALF
    if not HAS_PAIRS or k < FEWEST or not _SHORT < longest < _LONG or longest_whole <= 0:
        return None
    step = max(longest / longest_whole, float(np.abs(centroids).max()) / _LARGEST)
    integers = np.zeros((k, d + d % 2), np.int16)
    square = 0.0
    for start in range(0, k, _BLOCK):
        some = centroids[start : start + _BLOCK].astype(np.float64)
        whole = np.rint(some / step)
        square = max(square, float(((some - whole * step) ** 2).sum(axis=1).max()))
        integers[start : start + _BLOCK, :d] = whole
    pairs = integers.view(np.int32)
    blocks = pairs.reshape(-1, MR, pairs.shape[1]).transpose(0, 2, 1)
    pairs = np.ascontiguousarray(blocks).reshape(pairs.shape)
    return FixedPoint(pairs, step, math.sqrt(square) * (1 + 1e-9), longest)


@dataclass(frozen=True, eq=False)
class Rows:
    """Room for rows in fixed point."""

    panels: NDArray[np.int32]
    """(P, ceil(d / 2), WIDTH)"""
    scales: NDArray[np.float32]
    """(P WIDTH,) step of the row times that of the centroids."""
    margins: NDArray[np.float32]
    """(P WIDTH,) scores that differ by more than this are in true order."""

    @classmethod
    def empty(cls, rows: int, d: int) -> Rows:
        """For ``rows`` rows, a multiple of WIDTH."""
        panels = np.empty((rows // WIDTH, (d + 1) // 2, WIDTH), np.int32)
        return cls(panels, np.empty(rows, np.float32), np.empty(rows, np.float32))

    def pack(self, x: NDArray[np.float32], r: int, centroids: FixedPoint) -> None:
        """Take the rows 0..r of x (n, d), to be multiplied with ``centroids``."""
        pack_pairs(
            x, r, centroids.step, centroids.error, centroids.longest, self.panels, self.scales,
            self.margins,
        )  # fmt: skip


@kernel(REORDERED)
def pack_pairs(x, r, centroid_step, centroid_error, longest, panels, scales, margins):  # type: ignore[no-untyped-def]
    """Rows 0..r of x (n, d) as pairs, zeros behind them, and how far their scores can be off.

    Beside the error of the steps, float32 rounds the sum, its scale, their product, the half norm
    and the difference: at most 5 u |x| |c| + u |c|^2 of a score, and twice that of two.
    """
    d = x.shape[1]
    width = panels.shape[2]
    longest_whole = np.float64(_LONGEST) - np.sqrt(np.float64(d)) * _HALF
    u = np.float64(2.0**-24)
    for p in range((r + width - 1) // width):
        for i in range(width):
            row = p * width + i
            square = np.float64(0)
            largest = np.float32(0)
            if row < r:
                for m in range(d):
                    square += np.float64(x[row, m]) * np.float64(x[row, m])
                    largest = max(largest, abs(x[row, m]))
            length = np.sqrt(square)
            if not _SHORT < length < _LONG:
                # Of zeros the scores are the half norms; other lengths are left to float32.
                margins[row] = 2 * u * longest * longest if length == 0 else np.float64(MOST)
                scales[row] = 0
                for m in range(panels.shape[1]):
                    panels[p, m, i] = 0
                continue
            step = max(length / longest_whole, np.float64(largest) / _LARGEST)
            inverse = np.float32(1 / step)
            scales[row] = step * centroid_step
            error = np.sqrt(np.float64(d)) * _HALF * step
            off = error * longest + (length + error) * centroid_error
            off += 5 * u * length * longest + u * longest * longest
            margins[row] = 2 * off * 1.000001
            for m in range(d // 2):
                low = np.int32(np.rint(x[row, 2 * m] * inverse))
                high = np.int32(np.rint(x[row, 2 * m + 1] * inverse))
                panels[p, m, i] = (low & 0xFFFF) | (high << 16)
            if d % 2:
                panels[p, d // 2, i] = np.int32(np.rint(x[row, d - 1] * inverse)) & 0xFFFF
