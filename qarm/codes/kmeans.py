"""k-means: Lloyd's algorithm on exact assignments, weighted and balanced where asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qarm.codes.balance import Penalties
from qarm.codes.seeding import Init, Seed, farthest, first_centres
from qarm.errors import InputError
from qarm.kernels.bounds import MovingCentroids
from qarm.kernels.nearest import Floats, Ints, as_matrix, nearest
from qarm.kernels.sums import scale_for, sum_clusters


@dataclass(frozen=True, eq=False)
class Clusters:
    """Result of ``kmeans``."""

    centroids: Floats
    """(K, d)."""
    inertia: list[float]
    """(Weighted) mean squared distance to the own centroid at the start of each iteration."""
    converged: bool
    """Whether the last iteration moved no point."""
    codes: Ints
    """(n,) nearest centroid of each point, at the end."""
    distances: Floats
    """(n,) squared distance to it."""


def kmeans(
    x: NDArray[np.floating],
    k: int,
    *,
    iterations: int,
    seed: Seed = 0,
    start: NDArray[np.floating] | None = None,
    init: Init = "k-means++",
    weights: NDArray[np.floating] | None = None,
    balance: float = 0.0,
    threads: int = 1,
) -> Clusters:
    """Lloyd's algorithm (1982) from drawn or given centres.

    A cluster without points is put on the point that is farthest from its centre; that point
    leaves its old cluster. Sums are exact (``sums``), so that the result is a function of the
    arguments alone.

    Args:
        x: (n, d) points.
        k: clusters.
        iterations: most iterations; fewer if no point moves.
        seed: of the first centres.
        start: (k, d) centres to start from in place of drawn ones.
        init: how first centres are drawn.
        weights: (n,) in [0, 1], what a point counts; none: 1 each.
        balance: see ``balance``; 0: each point goes to its nearest centroid.
        threads: the result does not depend on it.

    Raises:
        InputError: fewer points than clusters, NaN or infinity, ``start`` of another shape, or
            weights outside [0, 1].
    """
    points = as_matrix(x, "points")
    n, d = points.shape
    if n < k:
        raise InputError(f"k-means: need >= {k} points, got {n}; ask for fewer centroids")
    mass = np.ones(n, np.float32) if weights is None else np.asarray(weights, np.float32)
    if mass.shape != (n,) or not 0 <= mass.min() <= mass.max() <= 1:
        raise InputError(f"k-means: weights should be {n} numbers in [0, 1]")
    if start is None:
        centroids = first_centres(points, k, init, seed, mass, threads)
    else:
        centroids = as_matrix(start, "start")
    if centroids.shape != (k, d):
        raise InputError(f"k-means: start should be {(k, d)}, is {centroids.shape}")
    penalties = Penalties(k, balance)
    moving = MovingCentroids(penalties.extend_points(points), threads=threads)
    scale = scale_for(float(max(points.max(), -points.min())))
    inertia: list[float] = []
    before: Ints | None = None
    for _ in range(iterations):
        codes, costs = moving.nearest(penalties.extend_centroids(centroids))
        distances = penalties.take_off(costs, codes)
        inertia.append(float(np.average(distances.astype(np.float64), weights=mass)))
        if before is not None and np.array_equal(codes, before) and not balance:
            return Clusters(centroids, inertia, True, codes, distances)
        centroids = update(points, codes, distances, centroids, mass, scale, threads)
        penalties.adjust(np.bincount(codes, minlength=k), inertia[-1])
        before = codes
    if balance:  # penalties end here
        codes, distances = nearest(points, centroids, threads=threads)
    else:
        codes, distances = moving.nearest(centroids)
    return Clusters(centroids, inertia, False, codes, distances)


def update(
    points: Floats,
    codes: Ints,
    distances: Floats,
    centroids: Floats,
    weights: Floats | None = None,
    scale: float | None = None,
    threads: int = 1,
) -> Floats:
    """Means of the clusters; empty ones are put on the farthest points.

    One after the other, each on the point that is farthest from its centre and from the points
    taken before (ties: the first row).

    Args:
        points: (n, d).
        codes: (n,) cluster of each point.
        distances: (n,) squared distance to its centre.
        centroids: (K, d) centres before; kept where there is nothing to move to.
        weights: (n,) of the points, at most 1; none: 1 each.
        scale: of the sums; none: found from the points.
        threads: the result does not depend on it.
    """
    k = len(centroids)
    weights = np.ones(len(points), np.float32) if weights is None else weights
    scale = scale_for(float(np.abs(points).max())) if scale is None else scale
    sums = sum_clusters(points, codes, weights, k, scale=scale, threads=threads)
    empty = np.flatnonzero(sums.sizes == 0)
    if len(empty):
        rows = farthest(points, weights, distances * weights, len(empty))
        sums.add(points[rows], codes[rows], weights[rows], -1)
        sums.add(points[rows], empty[: len(rows)].astype(np.int32), weights[rows])
    return sums.means(centroids)
