"""Approximate K nearest anchors, for pools too large for the exact kernel: an inverted file.

Anchors are divided among cells, each around a centre of k-means; a row searches the ``probes``
cells nearest to it (Jegou et al., Product quantization for nearest neighbor search, 2011, section
4, without quantisation inside the cells). The exact kernels compute centres and cells, so that
every process builds the same index; faiss scans the cells. Float64 distances order the result.
``recall`` measures how much of the exact result it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.anchors import SPARE, nearest_k, order
from qarm.codes.kmeans import kmeans
from qarm.kernels.nearest import Centroids, Floats, Ints, as_matrix, nearest, prepare

ROWS_PER_CELL = 64
"""Maximum number of anchors per cell that its centre is fitted on."""
_ITERATIONS = 5


@dataclass(frozen=True, eq=False)
class AnchorIndex:
    """``build_index`` creates it."""

    anchors: Centroids
    """All anchors, prepared for the exact kernel."""
    probes: int
    """Cells that a row searches."""
    cells: int
    """Number of cells."""
    index: Any = field(repr=False)
    """faiss.IndexIVFFlat."""

    def search(self, x: NDArray[np.floating[Any]], k: int) -> Ints:
        """Ids (n, k) of approximately the nearest anchors, nearest first, ties to the lower id.

        A row whose cells hold fewer than k anchors is searched exactly. One thread.
        """
        import faiss

        matrix = as_matrix(x, "vectors")
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # a task has one core
        try:
            candidates = self.index.search(matrix, min(k + SPARE, len(self.anchors.vectors)))[1]
        finally:
            faiss.omp_set_num_threads(before)
        short = (candidates < 0).any(axis=1)
        candidates = np.where(short[:, None], 0, candidates).astype(np.int32)
        ids = order(matrix, self.anchors, candidates, k)
        if short.any():
            ids[short] = nearest_k(matrix[short], self.anchors, k)
        return ids


def build_index(anchors: Centroids, *, probes: int, seed: int = 0) -> AnchorIndex:
    """Divide ``anchors`` (N, d) among 4 sqrt(N) cells; equal in every process.

    Args:
        anchors: prepared by ``prepare_anchors``.
        probes: cells that a row searches.
        seed: of the sample of anchors that the centres are fitted on.
    """
    import faiss

    vectors: Floats = anchors.vectors
    n, d = vectors.shape
    cells = min(n, int(4 * n**0.5))
    rng = np.random.default_rng(seed)
    sample = vectors[np.sort(rng.choice(n, min(n, ROWS_PER_CELL * cells), replace=False))]
    start = sample[rng.choice(len(sample), cells, replace=False)]
    centres = kmeans(sample, cells, iterations=_ITERATIONS, start=start).centroids
    quantizer = faiss.IndexFlatL2(d)
    quantizer.add(centres)
    index: Any = faiss.IndexIVFFlat(quantizer, d, cells)
    index.nprobe = min(probes, cells)
    cell = nearest(vectors, prepare(centres))[0].astype(np.int64)
    index.add_core(n, faiss.swig_ptr(vectors), None, faiss.swig_ptr(cell))
    index.referenced_objects = [quantizer]  # faiss keeps a pointer only
    return AnchorIndex(anchors, index.nprobe, cells, index)


def recall(index: AnchorIndex, x: NDArray[np.floating[Any]], k: int) -> float:
    """Share of the exact K nearest anchors of the rows of ``x`` that the index returns."""
    exact, searched = nearest_k(x, index.anchors, k), index.search(x, k)
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, searched, strict=True)]))
