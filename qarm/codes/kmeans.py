"""k-means: k-means++ seeding and Lloyd's algorithm on exact assignments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qarm.codes.compiled import FINITE, REORDERED, kernel
from qarm.codes.nearest import _MOST, Floats, Ints, as_matrix, nearest
from qarm.errors import InputError

SEEDING_ROWS = 65_536
"""k-means++ looks at no more rows than this, or eight a centroid: its cost is rows times K."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Result of ``kmeans``."""

    centroids: Floats
    """(K, d)."""
    inertia: list[float]
    """Mean squared distance to the nearest centroid at the start of each iteration."""
    converged: bool
    """Whether the last iteration moved no point."""


def kmeans(
    x: NDArray[np.floating],
    k: int,
    *,
    iterations: int,
    seed: int | tuple[int, ...] = 0,
    start: NDArray[np.floating] | None = None,
    threads: int = 1,
) -> Clusters:
    """Lloyd's algorithm (1982) from k-means++ centres (Arthur and Vassilvitskii, 2007).

    A cluster without points is put on the point that is farthest from its centre; that point
    leaves its old cluster. Sums are float64, in the order of the rows, so that the result is a
    function of the arguments alone.

    Args:
        x: (n, d) points.
        k: clusters.
        iterations: most iterations; fewer if no point moves.
        seed: of the first centres.
        start: (k, d) centres to start from in place of k-means++.
        threads: for assignments; the result does not depend on it.

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
    inertia: list[float] = []
    before: Ints | None = None
    for _ in range(iterations):
        codes, distances = nearest(points, centroids, threads=threads)
        inertia.append(float(distances.mean(dtype=np.float64)))
        if before is not None and np.array_equal(codes, before):
            return Clusters(centroids, inertia, converged=True)
        centroids = update(points, codes, distances, centroids)
        before = codes
    return Clusters(centroids, inertia, converged=False)


def seed_plus_plus(points: Floats, k: int, seed: int | tuple[int, ...]) -> Floats:
    """k-means++: each next centre is a point, drawn by its squared distance to those chosen.

    At most ``max(SEEDING_ROWS, 8 k)`` points, drawn without replacement, take part.
    """
    rng = np.random.default_rng(seed)
    most = max(SEEDING_ROWS, 8 * k)
    if len(points) > most:
        points = points[np.sort(rng.choice(len(points), most, replace=False))]
    chosen = np.empty(k, np.int64)
    closest = np.full(len(points), _MOST, np.float32)
    chosen[0] = rng.integers(len(points))
    draws = rng.random(k)
    for c in range(1, k):
        total = _relax(points, points[chosen[c - 1]], closest)
        # A total of zero: fewer distinct points than k; any point will do, the centre stays empty.
        chosen[c] = _draw(closest, total * draws[c]) if total > 0 else c
    return points[chosen].copy()


@kernel(REORDERED)
def _relax(points, centre, closest):  # type: ignore[no-untyped-def]
    """closest[i] = min(closest[i], ||points[i] - centre||^2); their sum."""
    total = np.float64(0)
    for i in range(len(points)):
        distance = np.float32(0)
        for m in range(points.shape[1]):
            difference = points[i, m] - centre[m]
            distance += difference * difference
        closest[i] = min(closest[i], distance)
        total += np.float64(closest[i])
    return total


@kernel(FINITE)
def _draw(weights, target):  # type: ignore[no-untyped-def]
    """First index whose running sum of weights exceeds ``target``; the last positive if none."""
    total = np.float64(0)
    last = 0
    for i in range(len(weights)):
        if weights[i] > 0:
            last = i
            total += np.float64(weights[i])
            if total > target:
                return i
    return last


def update(points: Floats, codes: Ints, distances: Floats, centroids: Floats) -> Floats:
    """Means of the clusters; empty ones are put on the farthest points.

    One after the other, each on the point that is farthest from its centre and from the points
    taken before (ties: the first row).

    Args:
        points: (n, d).
        codes: (n,) cluster of each point.
        distances: (n,) squared distance to its centre.
        centroids: (K, d) centres before; kept where there is nothing to move to.
    """
    k = len(centroids)
    empty = np.flatnonzero(np.bincount(codes, minlength=k) == 0)
    if len(empty):
        codes, closest = codes.copy(), distances.copy()
        for code in empty:
            row = int(closest.argmax())
            if closest[row] <= 0:
                break
            codes[row] = code
            _relax(points, points[row], closest)  # the next one goes elsewhere
    sums, counts = _sums(points, codes, k)
    filled = counts > 0
    means = centroids.copy()
    means[filled] = (sums[filled] / counts[filled, None]).astype(np.float32)
    return means


@kernel(FINITE)
def _sums(points, codes, k):  # type: ignore[no-untyped-def]
    """Sum and count of the points of each cluster."""
    sums = np.zeros((k, points.shape[1]), np.float64)
    counts = np.zeros(k, np.int64)
    for i in range(len(points)):
        code = codes[i]
        counts[code] += 1
        for m in range(points.shape[1]):
            sums[code, m] += np.float64(points[i, m])
    return sums, counts
