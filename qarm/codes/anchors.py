"""VQ codes: a pool of item vectors (anchors), and the ids of the K nearest of them.

QARM (arXiv 2411.11739), section 3: no clustering; an item's code is the ordered list of its K
nearest anchors. How the pool is chosen is not published; ours (``fit_stage.choose_anchors``) takes
the items with most events in training, or items at random by hash.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qarm.codes.compiled import FINITE, REORDERED, kernel, over_rows
from qarm.codes.microkernel import WIDTH, filter_level, pack
from qarm.codes.nearest import _MOST, ROWS, Centroids, Floats, Ints, _margin, as_matrix, prepare
from qarm.errors import InputError

SPARE = 8
"""Candidates kept beyond K, so that float32 noise at rank K rarely costs a second look."""


def nearest_k(
    x: NDArray[np.floating],
    anchors: Centroids | NDArray[np.floating],
    k: int,
    *,
    threads: int = 1,
) -> Ints:
    """Ids of the K nearest anchors of each row, nearest first, ties to the lower id.

    Exact: candidates come from float32 products, their order from float64 distances; a row whose
    rank K is nearer to the candidates' edge than float32 can tell is decided by brute force.

    Args:
        x: (n, d) vectors.
        anchors: (N, d), or made ready by ``prepare_anchors``.
        k: length of the code.
        threads: rows are split over so many threads; the result does not depend on it.

    Returns:
        (n, k) anchor ids.

    Raises:
        InputError: fewer than k anchors, dimensions differ, or NaN or infinity.
    """
    ready = anchors if isinstance(anchors, Centroids) else prepare_anchors(anchors)
    matrix = as_matrix(x, "vectors")
    if k > len(ready.vectors):
        raise InputError(
            f"a VQ code of length {k} needs at least {k} anchors, got {len(ready.vectors)}; lower "
            "codes.vq_k or fit with more anchors"
        )
    if ready.dimensions != matrix.shape[1]:
        raise InputError(
            f"vectors have {matrix.shape[1]} dimensions, anchors have {ready.dimensions}; use the "
            "codebook that was fitted on such vectors"
        )
    ids = np.empty((len(matrix), k), np.int32)

    def work(start: int, stop: int) -> None:
        _nearest_k(matrix[start:stop], ready, ids[start:stop])

    over_rows(work, len(matrix), threads, ROWS)
    return ids


def prepare_anchors(anchors: NDArray[np.floating]) -> Centroids:
    """Like ``prepare``; equal anchors all stay, since a code may name each of them."""
    return prepare(anchors, "anchors", distinct=False)


def order(x: Floats, anchors: Centroids, found: Ints, k: int) -> Ints:
    """The K nearest of the candidates ``found`` (n, width >= k), by float64 distance, then id."""
    ids = np.empty((len(x), k), np.int32)
    scores = np.full(found.shape, _MOST, np.float32)  # no anchor but these is looked at
    _rank(x, len(x), anchors.vectors, scores, found, ids, 0.0, 0.0)
    return ids


def _nearest_k(x: Floats, anchors: Centroids, ids: Ints) -> None:
    width = min(ids.shape[1] + SPARE, len(anchors.vectors))
    size = min(ROWS, -(-len(x) // WIDTH) * WIDTH)
    panels = np.empty((size // WIDTH, x.shape[1], WIDTH), np.float32)
    scores = np.empty((size, width), np.float32)
    found = np.empty((size, width), np.int32)
    slope, offset = _margin(anchors)
    for start in range(0, len(x), ROWS):
        r = min(ROWS, len(x) - start)
        rows = x[start : start + r]
        pack(rows, r, panels)
        filter_level(panels, r, anchors.padded, anchors.padded_norms, anchors.tile, scores, found)
        _rank(rows, r, anchors.vectors, scores, found, ids[start : start + r], slope, offset)


@kernel(REORDERED)
def _distance(x, c):  # type: ignore[no-untyped-def]
    total = np.float64(0)
    for m in range(len(x)):
        difference = np.float64(x[m]) - np.float64(c[m])
        total += difference * difference
    return total


@kernel(FINITE)
def _rank(x, r, anchors, scores, found, ids, slope, offset):  # type: ignore[no-untyped-def]
    """Order candidates by (float64 distance, id); decide a row again if its edge is not clear."""
    width, k = scores.shape[1], ids.shape[1]
    n = len(anchors)
    distances = np.empty(k, np.float64)
    for i in range(r):
        square = np.float64(0)
        for m in range(x.shape[1]):
            square += np.float64(x[i, m]) * np.float64(x[i, m])
        for attempt in range(2):
            kept = 0
            for c in range(width if attempt == 0 else n):
                code = found[i, c] if attempt == 0 else c
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
            # No anchor outside the candidates scores below scores[width - 1]; the K-th found has
            # the true score (distance - ||x||^2) / 2.
            edge = np.float64(scores[i, width - 1]) - (distances[k - 1] - square) / 2
            if width == n or edge > slope * np.sqrt(square) + offset:
                break
