"""Points drawn or chosen by their distance to those chosen before: seeds and k-centre pools."""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import FINITE, REORDERED, compiled
from qarm.kernels.microkernel import MOST


@compiled(fastmath=REORDERED)
def relax(points, centre, closest):  # type: ignore[no-untyped-def]
    """closest[i] = min(closest[i], ||points[i] - centre||^2), in place; returns their sum."""
    total = np.float64(0)
    for i in range(len(points)):
        distance = np.float32(0)
        for m in range(points.shape[1]):
            difference = points[i, m] - centre[m]
            distance += difference * difference
        closest[i] = min(closest[i], distance)
        total += np.float64(closest[i])
    return total


@compiled(fastmath=FINITE)
def draw(weights, target):  # type: ignore[no-untyped-def]
    """First index whose running sum of weights exceeds ``target``; the last positive if none."""
    total = np.float64(0)
    last = 0
    for i in range(len(weights)):
        if weights[i] > 0:
            last = i
            total += np.float64(weights[i])
            if total > target:
                return i
    return last


@compiled(fastmath=REORDERED)
def choose_farthest(points, k):  # type: ignore[no-untyped-def]
    """(k,) rows of ``points`` (n, d): the first, then the row farthest from all chosen, ..."""
    n, d = points.shape
    chosen = np.empty(k, np.int64)
    closest = np.full(n, np.float32(MOST))
    current = 0
    for c in range(k):
        chosen[c] = current
        following, largest = 0, np.float32(-2)
        closest[current] = np.float32(-1)  # taken: behind every point that is not
        for i in range(n):
            if closest[i] < 0:
                continue
            distance = np.float32(0)
            for m in range(d):
                difference = points[i, m] - points[current, m]
                distance += difference * difference
            closest[i] = min(closest[i], distance)
            if closest[i] > largest:
                following, largest = i, closest[i]
        current = following
    return chosen
