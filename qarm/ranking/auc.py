"""Area under the ROC curve over all ranks, from two histograms of 2^16 bins."""

from __future__ import annotations

import torch
from torch import Tensor

from qarm.training import collectives

BINS = 65_536


class AucCounter:
    """Weighted AUC of scores that arrive in batches, in constant memory.

    It chooses the epoch during training. The published figures are computed in Spark, with
    intervals, by ``qarm.evaluation.ranking_metrics``.

    Scores are binned by sigmoid(logit / 4), which keeps scores near 0 and 1 apart. Scores of one
    bin count as ties (one half each); the error is at most half the share of pairs in the same bin.
    """

    def __init__(self) -> None:
        self.histogram = torch.zeros(2, BINS, dtype=torch.float64)

    def add(self, logits: Tensor, labels: Tensor, weight: Tensor) -> None:
        """Add scores (B,), their labels (0 or 1) and weights."""
        place = (torch.sigmoid(logits.detach().double() / 4) * BINS).long().clamp_max(BINS - 1)
        for label in (0, 1):
            mine = weight * (labels == label)
            self.histogram[label].index_add_(0, place, mine.double())

    def value(self) -> float:
        """AUC over all ranks; NaN if one of the labels has no weight. A collective operation."""
        negative, positive = collectives.allreduce_sum(self.histogram, "auc")
        pairs = float(negative.sum() * positive.sum())
        if pairs == 0:
            return float("nan")
        below = torch.cumsum(negative, 0) - negative
        return float((positive * (below + 0.5 * negative)).sum()) / pairs
