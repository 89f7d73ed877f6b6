"""Vectors in 16-bit fixed point: the processor sums their products twice as fast, without error.

A vector v becomes integers i with a step t, v = t i + e, where no part of e is above t / 2. Steps
are such that the lengths of the integers of a row and of a centroid have a product below 2^31: then
no sum of products, whole or partial, leaves 32 bits (Cauchy and Schwarz). So the only errors of x.c
are those of the steps, at most |e_x| |c| + |t i_x| |e_c|: some 10^-4 of |x| |c|. Rows whose scores
are nearer to each other than that are decided again with float32 (``qarm.codes.nearest``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qarm.codes.compiled import REORDERED, kernel
from qarm.codes.microkernel import MR, PAIRS, WIDTH, tile_of

_LONGEST = 46_340
"""The largest whole number whose square is below 2^31."""
_LARGEST = 32_767
_HALF = 0.51
"""Largest error of a part, in steps: a half, and what float32 adds to it."""
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
    """``centroids`` (K'', d) in fixed point; None where the processor or they gain nothing by it.

    Args:
        centroids: a multiple of MR.
        longest: largest length.
    """
    if not PAIRS or len(centroids) < FEWEST or not longest:
        return None
    d = centroids.shape[1]
    room = _LONGEST - math.sqrt(d) * _HALF
    if room <= 0:
        return None
    step = max(longest / room, float(np.abs(centroids).max()) / _LARGEST)
    if not 1e-30 < step < 1e30:  # float32 has room for what rows' steps make of it
        return None
    whole = np.rint(centroids.astype(np.float64) / step)
    error = float(np.sqrt(((centroids - whole * step) ** 2).sum(axis=1).max()))
    integers = np.zeros((len(centroids), d + d % 2), np.int16)
    integers[:, :d] = whole
    pairs = integers.view(np.int32)
    blocks = pairs.reshape(-1, MR, pairs.shape[1]).transpose(0, 2, 1)
    pairs = np.ascontiguousarray(blocks).reshape(pairs.shape)
    return FixedPoint(pairs, step, error * (1 + 1e-9), longest)


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
    def room(cls, rows: int, d: int) -> Rows:
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
def pack_pairs(x, r, unit, unit_error, longest, panels, scales, margins):  # type: ignore[no-untyped-def]
    """Rows 0..r of x (n, d) as pairs, zeros behind them, and how far their scores can be off.

    Beside the error of the steps, float32 rounds the sum, its scale, their product, the half norm
    and the difference: 5 u |x| |c| + u |c|^2 for a score, and twice that for two.
    """
    d = x.shape[1]
    room = np.float64(_LONGEST) - np.sqrt(np.float64(d)) * _HALF
    u = np.float64(2.0**-24)
    for p in range((r + WIDTH - 1) // WIDTH):
        for i in range(WIDTH):
            row = p * WIDTH + i
            square = np.float64(0)
            largest = np.float32(0)
            if row < r:
                for m in range(d):
                    square += np.float64(x[row, m]) * np.float64(x[row, m])
                    largest = max(largest, abs(x[row, m]))
            length = np.sqrt(square)
            step = max(length / room, np.float64(largest) / _LARGEST)
            usable = row < r and step > 1e-30 and step * unit > 1e-37
            inverse = np.float32(1 / step) if usable else np.float32(0)
            scales[row] = step * unit
            error = np.sqrt(np.float64(d)) * _HALF * step
            off = error * longest + (length + error) * unit_error
            off += 5 * u * length * longest + u * longest * longest
            margins[row] = 2 * off * 1.000001
            if not usable:  # zeros have score ||c||^2 / 2 of all centroids
                margins[row] = 4 * length * longest + 2 * u * longest * longest
                for m in range(panels.shape[1]):
                    panels[p, m, i] = 0
                continue
            for m in range(d // 2):
                low = np.int32(np.rint(x[row, 2 * m] * inverse))
                high = np.int32(np.rint(x[row, 2 * m + 1] * inverse))
                panels[p, m, i] = (low & 0xFFFF) | (high << 16)
            if d % 2:
                panels[p, d // 2, i] = np.int32(np.rint(x[row, d - 1] * inverse)) & 0xFFFF
