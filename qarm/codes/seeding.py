"""First centres of k-means: k-means++ and k-means||, and where empty clusters go."""

from __future__ import annotations

from typing import Literal

import numpy as np

from qarm.kernels.microkernel import MOST
from qarm.kernels.nearest import Floats, nearest
from qarm.kernels.threads import FINITE, REORDERED, kernel

SEEDING_ROWS = 65_536
"""k-means++ looks at no more rows than this, or eight a centroid: its cost is rows times K."""
ROUNDS = 4
"""Rounds of k-means||; each draws about K candidates. Bahmani et al. find no gain beyond five."""

Init = Literal["k-means++", "k-means||"]
Seed = int | tuple[int, ...]


def seeding_rows(k: int) -> int:
    """Most rows that k-means++ looks at for ``k`` centres."""
    return max(SEEDING_ROWS, 8 * k)


def first_centres(
    points: Floats, k: int, init: Init, seed: Seed, weights: Floats | None = None, threads: int = 1
) -> Floats:
    """(K, d) centres by the rule ``init``; the same for any number of threads."""
    if init == "k-means||":
        return seed_parallel(points, k, seed, weights, threads=threads)
    return seed_plus_plus(points, k, seed, weights)


def seed_plus_plus(points: Floats, k: int, seed: Seed, weights: Floats | None = None) -> Floats:
    """k-means++ (Arthur and Vassilvitskii, 2007): each next centre is a point, drawn by its squared
    distance to those chosen, times its weight.

    At most ``seeding_rows(k)`` points, drawn without replacement, take part.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones(len(points), np.float32) if weights is None else weights
    most = seeding_rows(k)
    if len(points) > most:
        part = np.sort(rng.choice(len(points), most, replace=False))
        points, weights = points[part], weights[part]
    closest = np.full(len(points), MOST, np.float32)
    chosen = np.empty(k, np.int64)
    chosen[0] = rng.integers(len(points))
    _draw_more(points, weights, closest, chosen, 1, rng.random(k))
    return points[chosen].copy()


def seed_parallel(
    points: Floats, k: int, seed: Seed, weights: Floats | None = None, *, threads: int = 1
) -> Floats:
    """k-means|| (Bahmani et al., VLDB 2012): ``ROUNDS`` times about K points, each drawn on its own
    by its squared distance; K of them by k-means++, a candidate weighing what is nearest to it.

    All points take part, at the cost of about ``ROUNDS`` Lloyd iterations.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones(len(points), np.float32) if weights is None else weights
    chosen = np.array([rng.integers(len(points))])
    closest = nearest(points, points[chosen], threads=threads)[1] * weights
    for _ in range(ROUNDS):
        draws = rng.random(len(points))
        # Points on a candidate have distance zero and are not drawn again.
        drawn = np.flatnonzero(draws * closest.sum(dtype=np.float64) < k * closest)
        if len(drawn):
            distances = nearest(points, points[drawn], threads=threads)[1]
            np.minimum(closest, distances * weights, out=closest)
            chosen = np.concatenate([chosen, drawn])
    if len(chosen) < k:  # few distinct points: the rest one by one
        known = len(chosen)
        chosen = np.concatenate([chosen, np.empty(k - known, np.int64)])
        _draw_more(points, weights, closest, chosen, known, rng.random(k))
        return points[chosen].copy()
    candidates = points[np.sort(chosen)]
    codes, _ = nearest(points, candidates, threads=threads)
    mass = np.bincount(codes, weights=weights, minlength=len(candidates)).astype(np.float32)
    again = (seed, 1) if isinstance(seed, int) else (*seed, 1)
    return seed_plus_plus(candidates, k, again, mass)


def farthest(
    points: Floats, weights: Floats, closest: Floats, most: int, others: float = 0.0
) -> list[int]:
    """Rows of at most ``most`` points, one after the other the farthest from the centres and from
    the points taken before (ties: the first row); fewer where nothing is left to move to.

    Args:
        points: (n, d).
        weights: (n,) of the points.
        closest: (n,) weight times squared distance to the centre; changed.
        most: how many are wanted.
        others: end where no point is left as far as this, the farthest of the points not given.
    """
    rows: list[int] = []
    while len(rows) < most and closest[row := int(closest.argmax())] > 0:
        if closest[row] < others:
            break
        rows.append(row)
        relax(points, points[row], weights, closest)
        closest[row] = 0
    return rows


def _draw_more(points, weights, closest, chosen, known, draws):  # type: ignore[no-untyped-def]
    """Fill ``chosen`` from place ``known`` on; ``closest`` knows of those before."""
    for c in range(known, len(chosen)):
        total = relax(points, points[chosen[c - 1]], weights, closest)
        # A total of zero: fewer distinct points than k; any point will do, the centre stays empty.
        chosen[c] = _draw(closest, total * draws[c]) if total > 0 else c


@kernel(REORDERED)
def relax(points, centre, weights, closest):  # type: ignore[no-untyped-def]
    """closest[i] = min(closest[i], weights[i] ||points[i] - centre||^2); their sum."""
    total = np.float64(0)
    for i in range(len(points)):
        distance = np.float32(0)
        for m in range(points.shape[1]):
            difference = points[i, m] - centre[m]
            distance += difference * difference
        closest[i] = min(closest[i], weights[i] * distance)
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
