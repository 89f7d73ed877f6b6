"""VQ codes: a pool of item vectors (anchors), and the ids of the K nearest of them.

QARM (arXiv 2411.11739), section 3: no clustering; an item's code is the ordered list of its K
nearest anchors. How the pool is chosen is not published; ours (``fit_stage.choose_anchors``) takes
the items with most events in training, or items at random by hash.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qarm.errors import InputError
from qarm.kernels.microkernel import MOST, WIDTH, filter_level
from qarm.kernels.nearest import (
    ROWS,
    Centroids,
    Floats,
    Ints,
    Numbers,
    Search,
    as_matrix,
    margin,
    prepare,
)
from qarm.kernels.threads import FINITE, REORDERED, kernel, over_rows

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

    Exact: candidates come from products in fixed point, their order from float64 distances; a row
    whose rank K is nearer to the candidates' edge than these can tell is done again with float32,
    and one for which that is not enough by brute force.

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
    scores = np.full(found.shape, MOST, np.float32)  # no anchor but these is looked at
    _rank(x, anchors.vectors, scores, found, ids, np.zeros(len(x), np.float32))
    return ids


def _nearest_k(x: Floats, anchors: Centroids, ids: Ints) -> None:
    search = _NearestAnchors(anchors, ids.shape[1], min(ROWS, -(-len(x) // WIDTH) * WIDTH))
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        search.find(rows, ids[start : start + len(rows)])


class _NearestAnchors(Search):
    """The ids of the K nearest anchors."""

    def __init__(self, anchors: Centroids, k: int, size: int) -> None:
        super().__init__(anchors, size)
        width = min(k + SPARE, len(anchors.vectors))
        self.margin = margin(anchors)
        self.scores = np.empty((size, width), np.float32)
        self.found = np.empty((size, width), np.int32)

    def _score(self, panels: Numbers, scales: Floats, r: int, points: Numbers, tile: int) -> None:
        norms = self.level.padded_norms
        filter_level(panels, scales, r, points, norms, tile, self.scores, self.found)

    def _choose(self, x: Floats, found: Ints, margins: Floats) -> NDArray[np.bool_]:
        r, anchors = len(x), self.level.vectors
        clear = _rank(x, anchors, self.scores[:r], self.found[:r], found, margins)
        if self.found.shape[1] == len(anchors):  # every anchor is a candidate
            clear[:] = True
        return clear

    def _decide(self, x: Floats, found: Ints) -> None:
        slope, offset = self.margin
        lengths = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
        margins = ((slope * lengths + offset) * (1 + 1e-6)).astype(np.float32)
        for row in np.flatnonzero(~self._choose(x, found, margins)):  # all anchors are candidates
            every = np.arange(len(self.level.vectors), dtype=np.int32)[None]
            found[row] = order(x[row : row + 1], self.level, every, found.shape[1])[0]


@kernel(REORDERED)
def _distance(x, c):  # type: ignore[no-untyped-def]
    total = np.float64(0)
    for m in range(len(x)):
        difference = np.float64(x[m]) - np.float64(c[m])
        total += difference * difference
    return total


@kernel(FINITE)
def _rank(x, anchors, scores, found, ids, margins):  # type: ignore[no-untyped-def]
    """Order candidates by (float64 distance, id); whether a row's edge is clear.

    No anchor outside the candidates scores below scores[width - 1]; the K-th found has the true
    score (distance - ||x||^2) / 2.
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
            code = found[i, c]
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
