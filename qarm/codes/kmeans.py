"""k-means: Lloyd's algorithm on exact assignments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.seeding import Seed, farthest, seed_plus_plus
from qarm.errors import InputError
from qarm.kernels.bounds import MovingCentroids
from qarm.kernels.nearest import Floats, Ints, as_matrix
from qarm.kernels.sums import scale_for, sum_clusters


@dataclass(frozen=True, eq=False)
class Clusters:
    """Result of ``kmeans``."""

    centroids: Floats
    """(K, d)."""
    inertia: list[float]
    """Mean squared distance to the own centroid at the start of each iteration."""
    converged: bool
    """Whether the last iteration moved no point."""
    codes: Ints
    """(n,) nearest centroid of each point, at the end."""
    distances: Floats
    """(n,) squared distance to it."""


def kmeans(
    x: NDArray[np.floating[Any]],
    k: int,
    *,
    iterations: int,
    seed: Seed = 0,
    start: NDArray[np.floating[Any]] | None = None,
    threads: int = 1,
) -> Clusters:
    """Lloyd's algorithm (1982) from drawn or given centres.

    A cluster without points moves to the point that is farthest from its centre; that point leaves
    its old cluster. Sums are exact (``sums``), so that the result is a function of the arguments
    alone.

    Args:
        x: (n, d) points.
        k: number of clusters.
        iterations: maximum number of iterations; fewer if no point moves.
        seed: of the first centres, drawn by k-means++.
        start: (k, d) centres to start from instead.
        threads: the result does not depend on it.

    Raises:
        InputError: fewer points than clusters, NaN or infinity, or ``start`` of another shape.
    """
    points = as_matrix(x, "points")
    n, d = points.shape
    if n < k:
        raise InputError(f"k-means: need >= {k} points, got {n}; ask for fewer centroids")
    centroids = seed_plus_plus(points, k, seed) if start is None else as_matrix(start, "start")
    if centroids.shape != (k, d):
        raise InputError(f"k-means: start should be {(k, d)}, is {centroids.shape}")
    moving = MovingCentroids(points, threads=threads)
    scale = scale_for(float(max(points.max(), -points.min())))
    inertia: list[float] = []
    before: Ints | None = None
    for _ in range(iterations):
        codes, distances = moving.nearest(centroids)
        inertia.append(float(distances.mean(dtype=np.float64)))
        if before is not None and np.array_equal(codes, before):
            return Clusters(centroids, inertia, True, codes, distances)
        centroids = update(points, codes, distances, centroids, scale, threads)
        before = codes
    codes, distances = moving.nearest(centroids)
    return Clusters(centroids, inertia, False, codes, distances)


def update(
    points: Floats,
    codes: Ints,
    distances: Floats,
    centroids: Floats,
    scale: float | None = None,
    threads: int = 1,
) -> Floats:
    """Means of the clusters; empty clusters move to the farthest points.

    Each empty cluster moves to the point that is farthest from its centre and from the points taken
    before (ties: the first row).

    Args:
        points: (n, d).
        codes: (n,) cluster of each point.
        distances: (n,) squared distance to its centre.
        centroids: (K, d) centres before; kept where there is no point to move to.
        scale: of the sums; None: computed from the points.
        threads: the result does not depend on it.
    """
    k = len(centroids)
    scale = scale_for(float(np.abs(points).max())) if scale is None else scale
    sums = sum_clusters(points, codes, k, scale=scale, threads=threads)
    empty = np.flatnonzero(sums.sizes == 0)
    if len(empty):
        rows = farthest(points, distances.copy(), len(empty))
        sums.add(points[rows], codes[rows], -1)
        sums.add(points[rows], empty[: len(rows)].astype(np.int32))
    return sums.means(centroids)
