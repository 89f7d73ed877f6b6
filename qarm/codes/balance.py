"""Balanced k-means at fit: large clusters get a penalty.

Points go to the centroid of least ||x - c||^2 + p_c. In each iteration the penalty p_c moves a
fifth of the way to balance * D * sqrt(K n_c / n), where n_c is the number of points of the cluster
and D the mean squared distance (longer steps, and penalties linear in n_c, oscillate). So small
clusters attract points, and their centroids move to crowded places: frequency-sensitive competitive
learning (Ahalt et al., 1990), in batches. The penalties end with the fit: a code is the nearest
centroid. Entropy rises, but no capacity is guaranteed. Up to 1 the error hardly rises; from about 2
on the penalties outweigh the distances, and both entropy and error get worse.

A penalty is an additional coordinate: ||(x, 0) - (c, sqrt p)||^2, so that the exact kernels apply.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qarm.kernels.nearest import Floats, Ints

_STEP = 0.2


class Penalties:
    """Penalty of each of ``k`` clusters; with ``balance`` 0 every method is a no-op."""

    def __init__(self, k: int, balance: float) -> None:
        self._balance = balance
        self._costs = np.zeros(k)

    def extend_points(self, points: Floats) -> Floats:
        """(n, d + 1), or unchanged."""
        if not self._balance:
            return points
        return np.hstack([points, np.zeros((len(points), 1), np.float32)])

    def extend_centroids(self, centroids: Floats) -> Floats:
        """(K, d + 1), or unchanged."""
        if not self._balance:
            return centroids
        return np.hstack([centroids, np.sqrt(self._costs)[:, None].astype(np.float32)])

    def take_off(self, costs: Floats, codes: Ints) -> Floats:
        """Squared distances without the penalties."""
        if not self._balance:
            return costs
        return np.maximum(costs - self._costs[codes].astype(np.float32), 0)

    def adjust(self, sizes: NDArray[np.integer[Any]], mean_distance: float) -> None:
        """Move the penalties one step towards their targets for these cluster sizes."""
        if self._balance:
            target = self._balance * mean_distance * np.sqrt(sizes * (len(sizes) / sizes.sum()))
            # A penalty common to all decides nothing; subtracted, the rest rounds least.
            self._costs += (target - target.min() - self._costs) * _STEP
