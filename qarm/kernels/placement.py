"""Places rows, in order, in the nearest code that has room: the loop of the collision resolver."""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import REORDERED, compiled
from qarm.kernels.microkernel import MOST


@compiled(fastmath=REORDERED)
def place_rows(rest, centroids, room, first, code, taken, capacity, out):  # type: ignore[no-untyped-def]
    """See ``qarm.codes.resolve.place_overflow``; ``room`` and ``out`` are changed in place."""
    total = room.sum()
    for i in range(len(rest)):
        if first[i]:
            room[:] = capacity
            total = capacity * len(room)
        if taken[i] >= 0:
            gone = min(taken[i], room[code[i]])
            room[code[i]] -= gone
            total -= gone
            continue
        if total == 0:
            continue
        least = np.float64(MOST) * 1e200
        best = -1
        for j in range(len(centroids)):
            if room[j] == 0:
                continue
            distance = np.float64(0)
            for m in range(rest.shape[1]):
                difference = np.float64(rest[i, m]) - np.float64(centroids[j, m])
                distance += difference * difference
            if distance < least:
                least = distance
                best = j
        room[best] -= 1
        total -= 1
        out[i] = best
