"""VQ codes: a pool of item vectors (anchors), and the ids of the K nearest of them.

QARM (arXiv 2411.11739), section 3: no clustering; an item's code is the ordered list of its K
nearest anchors. How the pool is chosen is not published; see ``pools``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qarm.errors import InputError
from qarm.kernels.candidates import rank_candidates
from qarm.kernels.microkernel import MOST, WIDTH, filter_level, pack
from qarm.kernels.nearest import ROWS, Centroids, Floats, Ints, as_matrix, margin, prepare
from qarm.kernels.threads import over_rows

SPARE = 8
"""Candidates kept beyond K, so that float32 noise at rank K rarely costs a second search."""


def nearest_k(
    x: NDArray[np.floating[Any]],
    anchors: Centroids | NDArray[np.floating[Any]],
    k: int,
    *,
    threads: int = 1,
) -> Ints:
    """Ids of the K nearest anchors of each row, nearest first, ties to the lower id.

    Exact: candidates come from float32 products, their order from float64 distances. A row whose
    K-th anchor is too close to the edge of its candidates is searched by brute force.

    Args:
        x: (n, d) vectors.
        anchors: (N, d), or prepared by ``prepare_anchors``.
        k: length of the code.
        threads: number of threads; the result does not depend on it.

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


def prepare_anchors(anchors: NDArray[np.floating[Any]]) -> Centroids:
    """Like ``prepare``, but keeps equal anchors, since a code may name each of them."""
    return prepare(anchors, "anchors", distinct=False)


def order(x: Floats, anchors: Centroids, candidates: Ints, k: int) -> Ints:
    """The K nearest of ``candidates`` (n, width >= k), by float64 distance, then id."""
    ids = np.empty((len(x), k), np.int32)
    scores = np.full(candidates.shape, MOST, np.float32)  # no other anchor matters
    rank_candidates(x, anchors.vectors, scores, candidates, ids, np.zeros(len(x), np.float32))
    return ids


def _nearest_k(x: Floats, anchors: Centroids, ids: Ints) -> None:
    k, total = ids.shape[1], len(anchors.vectors)
    size = min(ROWS, -(-len(x) // WIDTH) * WIDTH)
    width = min(k + SPARE, total)
    panels = np.empty((size // WIDTH, anchors.dimensions, WIDTH), np.float32)
    scores, candidates = np.empty((size, width), np.float32), np.empty((size, width), np.int32)
    slope, offset = margin(anchors)
    for start in range(0, len(x), ROWS):
        rows, out = x[start : start + ROWS], ids[start : start + ROWS]
        r = len(rows)
        pack(rows, r, panels)
        filter_level(
            panels, r, anchors.padded, anchors.padded_norms, anchors.tile, scores, candidates
        )
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        margins = ((slope * lengths + offset) * (1 + 1e-6)).astype(np.float32)
        clear = rank_candidates(rows, anchors.vectors, scores[:r], candidates[:r], out, margins)
        if width == total:  # every anchor is a candidate
            continue
        every = np.arange(total, dtype=np.int32)[None]
        for row in np.flatnonzero(~clear):
            out[row] = order(rows[row : row + 1], anchors, every, k)[0]
