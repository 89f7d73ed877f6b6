"""Residual k-means: R1 = kmeans(M), M1 = M - nearest(M, R1), R2 = kmeans(M1), ...

QARM (arXiv 2411.11739), section 3. A code is the greedy nearest centroid of each level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qarm.codes.kmeans import kmeans
from qarm.codes.nearest import Floats, Ints, as_matrix, nearest
from qarm.errors import InputError


@dataclass(frozen=True, eq=False)
class ResidualFit:
    """Result of ``fit_residual``."""

    levels: list[Floats]
    """(K_l, d) centroids of each level."""
    codes: Ints
    """(n, L) codes of the fitted rows."""
    errors: list[float]
    """Mean squared length of what is left after each level."""
    iterations: list[int]
    """Lloyd iterations that each level took."""


def fit_residual(
    x: NDArray[np.floating],
    sizes: Sequence[int],
    *,
    iterations: int,
    seed: int = 0,
    shrink: float = 0.0,
    threads: int = 1,
    say: Callable[[str], None] | None = None,
) -> ResidualFit:
    """Fit one k-means a level on what the levels before have left.

    Args:
        x: (n, d) vectors.
        sizes: centroids of each level.
        iterations: most Lloyd iterations a level.
        seed: of the first centres; each level draws its own.
        shrink: see ``shrunk``; from the second level on, whose rests have a mean near zero.
        threads: for assignments; the result does not depend on it.
        say: told a line after each level.

    Raises:
        InputError: a level is larger than n, or NaN or infinity.
    """
    rest = as_matrix(x, "vectors")
    if len(rest) < max(sizes):
        raise InputError(
            f"residual k-means with levels {list(sizes)}: need >= {max(sizes)} points, got "
            f"{len(rest)}; lower codes.rq_levels"
        )
    fit = ResidualFit([], np.empty((len(rest), len(sizes)), np.int32), [], [])
    for number, size in enumerate(sizes):
        clusters = kmeans(rest, size, iterations=iterations, seed=(seed, number), threads=threads)
        centroids = clusters.centroids
        if shrink and number:
            centroids = shrunk(rest, centroids, shrink, threads=threads)
        codes, distances = nearest(rest, centroids, threads=threads)
        rest = rest - centroids[codes]
        fit.levels.append(centroids)
        fit.codes[:, number] = codes
        fit.errors.append(float(distances.mean(dtype=np.float64)))
        fit.iterations.append(len(clusters.inertia))
        if say is not None:
            say(
                f"level {number + 1} of {len(sizes)}: {size} centroids, {len(clusters.inertia)} "
                f"iterations, mean squared rest {fit.errors[-1]:.4f}"
            )
    return fit


def shrunk(rest: Floats, centroids: Floats, pseudo: float, *, threads: int = 1) -> Floats:
    """Centroids as means of their points and of ``pseudo`` more at zero.

    Where clusters are small, a mean follows the chance of its points: rests of items not fitted on
    are nearer to a centroid that gives way towards the mean of all (the posterior mean under a
    normal prior; James and Stein, 1961). Centroids of one far point stop drawing centroids away
    from the many near ones.

    Args:
        rest: (n, d) points.
        centroids: (K, d) means of clusters.
        pseudo: points at zero that each cluster counts besides its own.
        threads: for assignments.
    """
    codes, _ = nearest(rest, centroids, threads=threads)
    counts = np.bincount(codes, minlength=len(centroids))
    return (centroids * (counts / (counts + pseudo))[:, None]).astype(np.float32)


def reconstruct(codes: NDArray[np.integer], levels: Sequence[Floats]) -> list[Floats]:
    """Sum of the centroids of the first 1, 2, ..., L codes: L arrays (n, d)."""
    sums: list[Floats] = []
    for number, level in enumerate(levels):
        part = level[codes[:, number]]
        sums.append(part if not sums else sums[-1] + part)
    return sums
