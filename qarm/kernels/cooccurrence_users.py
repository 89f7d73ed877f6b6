"""What each user adds to ItemCF counts: the largest co-occurrence of a pair. Arrays in and out."""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import compiled


@compiled
def list_terms(indptr, item, ts, weight, recency, window_micros):  # type: ignore[no-untyped-def]
    """Every co-occurrence of each list once, and every event as that of its item with itself.

    Args:
        indptr: int64[users + 1], bounds of each user's events, in order.
        item, ts: int64[events]; weight: float64[events].
        recency: float64[w], factor of events 1, 2, ... apart; its length is the window.
        window_micros: int64, farthest two events may be apart in time.

    Returns:
        int64[5, n]: row of the user, smaller item, larger item, ts of the event that comes later in
        the list, the later ts of both; float64[n]: recency times both weights (of an event alone:
        its weight). User by user.
    """
    found = 0
    out, value = np.empty((5, 0), np.int64), np.empty(0, np.float64)
    for fill in (False, True):
        if fill:
            out, value = np.empty((5, found), np.int64), np.empty(found, np.float64)
        found = 0
        for u in range(len(indptr) - 1):
            for e in range(indptr[u], indptr[u + 1]):
                for other in range(max(indptr[u], e - len(recency)), e + 1):
                    if other < e and item[other] == item[e]:
                        continue
                    if abs(ts[e] - ts[other]) > window_micros:
                        continue
                    if fill:
                        out[0, found] = u
                        out[1, found] = min(item[e], item[other])
                        out[2, found] = max(item[e], item[other])
                        out[3, found] = ts[e]
                        out[4, found] = max(ts[e], ts[other])
                        value[found] = weight[e]
                        if other < e:
                            value[found] = recency[e - other - 1] * (weight[e] * weight[other])
                    found += 1
    return out, value
