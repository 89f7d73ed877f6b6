"""Co-occurrences of users' event lists, by the day of the later event. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import compiled

#: Integer units per unit of a count: integer sums do not depend on their order.
UNITS = 2.0**32


@compiled
def list_cooccurrences(indptr, item, ts, weight, day, counted, recency, window_micros):  # type: ignore[no-untyped-def]
    """Each co-occurrence whose later event is ``counted``.

    Args:
        indptr: int64[users + 1], bounds of each user's events, in order.
        item, ts, day: int64[events]; weight: float64[events]; counted: bool[events].
        recency: float64[w], factor of events 1, 2, ... apart; its length is the window.
        window_micros: int64, largest time between the two events, in microseconds.

    Returns:
        day, smaller item, larger item, units, ts of the later event: int64[n] each.
    """
    found = 0
    out = np.empty((5, 0), np.int64)
    for fill in (False, True):
        if fill:
            out = np.empty((5, found), np.int64)
        found = 0
        for u in range(len(indptr) - 1):
            for e in range(indptr[u], indptr[u + 1]):
                if not counted[e]:
                    continue
                first = max(indptr[u], e - len(recency))
                for other in range(e - 1, first - 1, -1):
                    if ts[e] - ts[other] > window_micros:
                        break
                    if item[other] == item[e]:
                        continue
                    if fill:
                        out[0, found] = day[e]
                        out[1, found] = min(item[e], item[other])
                        out[2, found] = max(item[e], item[other])
                        value = recency[e - other - 1] * (weight[e] * weight[other])
                        out[3, found] = np.int64(np.rint(value * 4294967296.0))
                        out[4, found] = ts[e]
                    found += 1
    return out
