"""Orders candidates for the K nearest anchors by their float64 distances."""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import FINITE, REORDERED, compiled


@compiled(fastmath=REORDERED)
def _distance(x, c):  # type: ignore[no-untyped-def]
    total = np.float64(0)
    for m in range(len(x)):
        difference = np.float64(x[m]) - np.float64(c[m])
        total += difference * difference
    return total


@compiled(fastmath=FINITE)
def rank_candidates(x, anchors, scores, candidates, ids, margins):  # type: ignore[no-untyped-def]
    """The K nearest candidates of each row by (float64 distance, id), and whether that is certain.

    No anchor outside the candidates scores below scores[width - 1]; the K-th candidate has the true
    score (distance - ||x||^2) / 2.

    Args:
        x: (n, d) vectors.
        anchors: (N, d).
        scores: (n, width) float32 scores of the candidates, ascending.
        candidates: (n, width) their ids.
        ids: (n, K) out.
        margins: (n,) scores that differ by more than this are in true order.

    Returns:
        (n,) whether no other anchor can be among the K nearest.
    """
    width, k = scores.shape[1], ids.shape[1]
    distances = np.empty(k, np.float64)
    clear = np.empty(len(x), np.bool_)
    for i in range(len(x)):
        square = np.float64(0)
        for m in range(x.shape[1]):
            square += np.float64(x[i, m]) * np.float64(x[i, m])
        kept = 0
        for c in range(width):
            code = candidates[i, c]
            distance = _distance(x[i], anchors[code])
            if kept == k:
                last = distances[k - 1]
                if distance > last or (distance == last and code > ids[i, k - 1]):
                    continue
            place = kept if kept < k else k - 1
            while place > 0 and (
                distances[place - 1] > distance
                or (distances[place - 1] == distance and ids[i, place - 1] > code)
            ):
                distances[place] = distances[place - 1]
                ids[i, place] = ids[i, place - 1]
                place -= 1
            distances[place] = distance
            ids[i, place] = code
            kept = min(kept + 1, k)
        edge = np.float64(scores[i, width - 1]) - (distances[k - 1] - square) / 2
        clear[i] = edge > np.float64(margins[i])
    return clear
