"""Residual k-means: R1 = kmeans(M), M1 = M - nearest(M, R1), R2 = kmeans(M1), ...

QARM (arXiv 2411.11739), section 3. A code is the greedy nearest centroid of each level, however the
levels were fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qarm import progress
from qarm.codes.kmeans import kmeans
from qarm.errors import InputError
from qarm.kernels.nearest import Floats, Ints, as_matrix, nearest


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
    rows: int
    """Rows fitted on."""
    mean_square: float
    """Mean squared length of their vectors."""
    shrunk_by: list[float] = field(default_factory=list)
    """``pseudo`` of ``shrunk``, by level; 0: plain means."""

    def describe(self, levels: int) -> str:
        """A line about the latest level of ``levels``."""
        return (
            f"level {len(self.levels)} of {levels}: {len(self.levels[-1])} centroids, "
            f"{self.iterations[-1]} iterations, mean squared rest {self.errors[-1]:.4f}"
        )


def fit_residual(
    x: NDArray[np.floating[Any]],
    sizes: Sequence[int],
    *,
    iterations: int,
    seed: int = 0,
    start: Sequence[Floats] | None = None,
    shrink: float | None = 0.0,
    threads: int = 1,
) -> ResidualFit:
    """Fit one k-means per level on what the levels before have left; reports each level.

    Args:
        x: (n, d) vectors.
        sizes: centroids of each level.
        iterations: maximum number of Lloyd iterations per level.
        seed: of the first centres; each level draws its own.
        start: (K_l, d) centroids of each level to start from, in place of drawn ones: a refit that
            keeps to an older codebook.
        shrink: ``pseudo`` of ``shrunk``, from the second level on, whose rests have a mean near
            zero; None: ``pseudo_points`` of each level.
        threads: for assignments; the result does not depend on it.

    Raises:
        InputError: a level is larger than n, NaN or infinity, or ``start`` of other sizes.
    """
    rest = as_matrix(x, "vectors")
    check_sizes(len(rest), rest.shape[1], sizes, start)
    codes = np.empty((len(rest), len(sizes)), np.int32)
    fit = ResidualFit([], codes, [], [], len(rest), float(_squares(rest).mean()))
    for number, size in enumerate(sizes):
        clusters = kmeans(
            rest,
            size,
            iterations=iterations,
            seed=(seed, number),
            start=None if start is None else start[number],
            threads=threads,
        )
        centroids, distances = clusters.centroids, clusters.distances
        codes[:, number] = clusters.codes
        sizes_of = np.bincount(clusters.codes, minlength=size)
        pseudo = shrink_of(number, shrink, centroids, sizes_of, float(distances.mean(dtype="f8")))
        if pseudo:
            centroids = shrunk(centroids, sizes_of, pseudo)
            codes[:, number], distances = nearest(rest, centroids, threads=threads)
        fit.shrunk_by.append(pseudo)
        rest = rest - centroids[codes[:, number]]
        fit.levels.append(centroids)
        fit.errors.append(float(distances.mean(dtype=np.float64)))
        fit.iterations.append(len(clusters.inertia))
        progress.say(f"residual k-means, {fit.describe(len(sizes))}")
    return fit


def check_sizes(rows: int, d: int, sizes: Sequence[int], start: Sequence[Floats] | None) -> None:
    """Raise an InputError where ``rows`` points of ``d`` dimensions cannot be fitted to this."""
    if rows < max(sizes):
        raise InputError(
            f"residual k-means with levels {list(sizes)}: need >= {max(sizes)} points, got {rows}; "
            "lower codes.rq_levels"
        )
    if start is not None and [np.shape(s) for s in start] != [(k, d) for k in sizes]:
        raise InputError(
            f"residual k-means with levels {list(sizes)} of {d} dimensions: start has levels of "
            f"shape {[np.shape(s) for s in start]}"
        )


def _squares(x: Floats) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    return lengths


def shrink_of(
    number: int,
    shrink: float | None,
    centroids: Floats,
    counts: NDArray[np.integer[Any]],
    inertia: float,
) -> float:
    """``pseudo`` of ``shrunk`` for level ``number``, see ``fit_residual``."""
    if number == 0 or shrink == 0:
        return 0.0
    return pseudo_points(centroids, counts, inertia) if shrink is None else shrink


def shrunk(centroids: Floats, counts: NDArray[np.integer[Any]], pseudo: float) -> Floats:
    """Centroids shrunk towards zero: means of their points and of ``pseudo`` points at zero.

    Means of small clusters overfit. Shrinking them (the posterior mean under a normal prior; James
    and Stein, 1961) lowers the error of items that were not fitted on.

    Args:
        centroids: (K, d) means of clusters.
        counts: (K,) points of each.
        pseudo: pseudo-count of points at zero.
    """
    kept: Floats = (centroids * (counts / (counts + pseudo))[:, None]).astype(np.float32)
    return kept


def pseudo_points(centroids: Floats, counts: NDArray[np.integer[Any]], inertia: float) -> float:
    """The ``pseudo`` of ``shrunk``, estimated from the clusters by moments.

    Points lie around the true centre of their cluster with variance s2, true centres around zero
    with variance t2, summed over dimensions. Then the posterior mean of a centre counts s2 / t2
    points at zero. s2 is what is left after K means; the squared length of a mean of n points is
    t2 + s2 / n on average, each cluster counting alike (empirical Bayes; Efron and Morris, 1973).

    Args:
        centroids: (K, d) means of clusters.
        counts: (K,) points of each.
        inertia: mean squared distance of a point to its centroid.

    Returns:
        Rounded to three digits, so that the last bits of a sum do not matter; 0 where it cannot be
        estimated, at most 1e6.
    """
    used = counts > 0
    rows, clusters = int(counts.sum()), int(used.sum())
    if rows <= clusters or inertia <= 0:
        return 0.0
    within = inertia * rows / (rows - clusters)
    lengths = float(_squares(centroids[used]).mean())
    between = lengths - within * float((1 / counts[used]).mean())
    return float(f"{within / max(between, 1e-6 * within):.3g}")


def reconstruct(codes: NDArray[np.integer[Any]], levels: Sequence[Floats]) -> list[Floats]:
    """Sum of the centroids of the first 1, 2, ..., L codes: L arrays (n, d)."""
    sums: list[Floats] = []
    for number, level in enumerate(levels):
        part = level[codes[:, number]]
        sums.append(part if not sums else sums[-1] + part)
    return sums
