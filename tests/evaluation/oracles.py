"""Figures of codes on whole arrays: what the Spark aggregations are compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qarm.evaluation.prefix_cosine import group_cosines, mean_pair_cosine


def prefix_cosine(x: NDArray[np.floating], codes: NDArray[np.integer]) -> list[float]:
    """Mean cosine inside a shared prefix of length 1, 2, ..., L; NaN where no items share one."""
    cosines = []
    for length in range(1, codes.shape[1] + 1):
        order = np.lexsort(codes[:, :length].T[::-1])
        sorted_codes = codes[order, :length]
        new = np.any(sorted_codes[1:] != sorted_codes[:-1], axis=1)
        starts = np.flatnonzero(np.append(True, new))
        total, items, _ = mean_pair_cosine(*group_cosines(x[order], starts))
        cosines.append(total / items if items else float("nan"))
    return cosines
