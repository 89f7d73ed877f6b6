"""Balanced k-means at fit: a cluster costs the more, the more points it has.

Points go to the centroid of least ||x - c||^2 + p_c; the penalty p_c goes a fifth of the way, an
iteration, to balance * D * sqrt(K n_c / n), where n_c is the number of points of the cluster and D
the mean squared distance (longer steps, and penalties linear in n_c, swing). So small clusters
draw points, and with them their centroids, from crowded places: frequency-sensitive competitive
learning (Ahalt et al., 1990), in batches. The penalties end with the fit. A code is the nearest
centroid, as ever, and is balanced as far as the centroids' places make it so: entropy rises, but no
capacity is promised. Up to 1 it costs little error or none; from about 2 on the penalties outweigh
the distances, and codes get worse by both measures.

A penalty is a coordinate more: ||(x, 0) - (c, sqrt p)||^2. So the exact kernels serve as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qarm.kernels.nearest import Floats, Ints

_STEP = 0.2


class Penalties:
    """Penalty of each of ``k`` clusters; with ``balance`` 0 nothing is done to anything."""

    def __init__(self, k: int, balance: float) -> None:
        self._balance = balance
        self._costs = np.zeros(k)

    def extend_points(self, points: Floats) -> Floats:
        """(n, d + 1), or as they are."""
        if not self._balance:
            return points
        return np.hstack([points, np.zeros((len(points), 1), np.float32)])

    def extend_centroids(self, centroids: Floats) -> Floats:
        """(K, d + 1), or as they are."""
        if not self._balance:
            return centroids
        return np.hstack([centroids, np.sqrt(self._costs)[:, None].astype(np.float32)])

    def take_off(self, costs: Floats, codes: Ints) -> Floats:
        """Squared distances without the penalties."""
        if not self._balance:
            return costs
        return np.maximum(costs - self._costs[codes].astype(np.float32), 0)

    def adjust(self, sizes: NDArray[np.integer], mean_distance: float) -> None:
        """Go a step towards what the clusters' sizes ask for."""
        if self._balance:
            wanted = self._balance * mean_distance * np.sqrt(sizes * (len(sizes) / sizes.sum()))
            # What all pay alike decides nothing; near zero it also rounds least.
            self._costs += (wanted - wanted.min() - self._costs) * _STEP
