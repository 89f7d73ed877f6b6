"""First centres of k-means by k-means++, and where empty clusters go."""

from __future__ import annotations

import numpy as np

from qarm.kernels.farthest import draw, relax
from qarm.kernels.microkernel import MOST
from qarm.kernels.nearest import Floats

SEEDING_ROWS = 65_536
"""k-means++ reads at most this many rows, or eight per centroid: its cost is rows times K."""

Seed = int | tuple[int, ...]


def seed_plus_plus(points: Floats, k: int, seed: Seed) -> Floats:
    """(K, d) centres by k-means++ (Arthur and Vassilvitskii, 2007).

    Each next centre is a point, drawn with a probability proportional to its squared distance to
    the nearest centre so far. Reads at most ``SEEDING_ROWS`` points (or eight per centroid), drawn
    without replacement.
    """
    rng = np.random.default_rng(seed)
    most = max(SEEDING_ROWS, 8 * k)
    if len(points) > most:
        points = points[np.sort(rng.choice(len(points), most, replace=False))]
    closest = np.full(len(points), MOST, np.float32)
    chosen = np.empty(k, np.int64)
    chosen[0] = rng.integers(len(points))
    draws = rng.random(k)
    for c in range(1, k):
        total = relax(points, points[chosen[c - 1]], closest)
        # A total of zero: fewer distinct points than k. Any point will do, the centre stays empty.
        chosen[c] = draw(closest, total * draws[c]) if total > 0 else c
    return points[chosen].copy()


def farthest(points: Floats, closest: Floats, most: int) -> list[int]:
    """Rows of at most ``most`` points, each the farthest from the centres and the rows before it.

    Ties go to the first row. Fewer rows where all points lie on a centre.

    Args:
        points: (n, d).
        closest: (n,) squared distance to the nearest centre; changed in place.
        most: number of rows wanted.
    """
    rows: list[int] = []
    while len(rows) < most and closest[row := int(closest.argmax())] > 0:
        rows.append(row)
        relax(points, points[row], closest)
        closest[row] = 0
    return rows
