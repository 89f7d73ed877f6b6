"""Arithmetic on what residual levels leave of the vectors."""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import FINITE, REORDERED, compiled


@compiled(fastmath=FINITE)
def subtract(rest, centroids, codes):  # type: ignore[no-untyped-def]
    """rest[i] -= centroids[codes[i]], in place."""
    for i in range(len(rest)):
        for m in range(rest.shape[1]):
            rest[i, m] -= centroids[codes[i], m]


@compiled(fastmath=REORDERED)
def square_rows(rest, out):  # type: ignore[no-untyped-def]
    """Squared length of each row of ``rest`` (n, d), summed in float64, into ``out`` (n,)."""
    for i in range(len(rest)):
        total = np.float64(0)
        for m in range(rest.shape[1]):
            total += np.float64(rest[i, m]) * np.float64(rest[i, m])
        out[i] = total


@compiled(fastmath=REORDERED)
def project_bits(rest, weights, origin, codes):  # type: ignore[no-untyped-def]
    """Bit i of codes[j] is 1 where (rest[j] - origin) . weights[i] > 0.

    Sums are float64, so that rounding is far below the precision of the float32 ``rest``.
    """
    d = rest.shape[1]
    for i in range(len(rest)):
        code = 0
        for bit in range(len(weights)):
            total = np.float64(0)
            for m in range(d):
                difference = np.float64(rest[i, m]) - np.float64(origin[m])
                total += difference * np.float64(weights[bit, m])
            if total > 0:
                code |= 1 << bit
        codes[i] = code
