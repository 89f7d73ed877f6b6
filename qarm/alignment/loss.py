"""The contrastive loss over the negatives of all ranks.

Symmetric InfoNCE (arXiv 1807.03748): each trigger is matched to its target among all ranks'
targets, and each target to its trigger. Candidates that are not negatives are masked, and the
popularity of candidates is corrected by the logQ term of sampled softmax (Yi et al., RecSys 2019).

Shapes: B rows of this rank, C = B x ranks candidates, d dimensions of a vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qarm.alignment.known_pairs import KnownPairs
from qarm.training import collectives

_MASKED = -1e9


class Temperature(nn.Module):
    """A learnable temperature, kept within [low, high]."""

    def __init__(self, start: float, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = math.log(low), math.log(high)
        self.log_value = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """The temperature, a scalar, clamped to its bounds."""
        with torch.no_grad():
            self.log_value.clamp_(self.low, self.high)
        return self.log_value.exp()


@dataclass
class PairBatch:
    """B pairs of this rank; padding rows have weight 0."""

    triggers: Tensor
    """(B,) rows of the item store."""
    targets: Tensor
    """(B,) rows of the item store."""
    trigger_logq: Tensor
    """(B,) log of the share of the training table's rows that have this trigger."""
    target_logq: Tensor
    """(B,) log of the share of rows that have this target."""
    weights: Tensor
    """(B,) weight of each row in the loss."""


def info_nce(
    trigger_vectors: Tensor,
    target_vectors: Tensor,
    batch: PairBatch,
    temperature: Tensor,
    *,
    logq: bool,
    known: KnownPairs | None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of this rank's losses, and the sum of the weights.

    Padding rows are neither anchors nor negatives. A candidate is not a negative of an anchor if it
    is the anchor itself, another row's copy of its positive, or, with ``known``, a known partner.

    Args:
        trigger_vectors, target_vectors: (B, d), of unit length.
        batch: the rows.
        temperature: scalar.
        logq: whether to subtract the candidates' log share.
        known: partners in training pairs; None: they are not masked.
    """
    _, columns = collectives.exchange(
        [],
        [batch.triggers, batch.targets, batch.trigger_logq, batch.target_logq, batch.weights],
        "pairs",
    )
    everywhere = PairBatch(*columns)
    # One gather for both: each one, and each of their backward passes, waits for all ranks.
    both = collectives.gather_with_grad(torch.stack([trigger_vectors, target_vectors], dim=1))
    all_triggers, all_targets = (vectors.contiguous() for vectors in both.unbind(1))
    forward = _one_way(
        trigger_vectors,
        all_targets,
        batch.triggers,
        everywhere.targets,
        everywhere.target_logq if logq else None,
        everywhere.weights,
        temperature,
        known,
    )
    backward = _one_way(
        target_vectors,
        all_triggers,
        batch.targets,
        everywhere.triggers,
        everywhere.trigger_logq if logq else None,
        everywhere.weights,
        temperature,
        known,
    )
    # In float64 the sum does not depend on the distribution of rows over ranks.
    weight = batch.weights.sum(dtype=torch.float64)
    return 0.5 * (batch.weights * (forward + backward)).sum(), weight


def _one_way(
    anchor_vectors: Tensor,
    candidate_vectors: Tensor,
    anchors: Tensor,
    candidates: Tensor,
    candidate_logq: Tensor | None,
    candidate_weights: Tensor,
    temperature: Tensor,
    known: KnownPairs | None,
) -> Tensor:
    """Loss of each anchor, (B,)."""
    logits_BC = anchor_vectors @ candidate_vectors.T / temperature
    if candidate_logq is not None:
        logits_BC = logits_BC - candidate_logq
    count = len(anchors)
    own = torch.arange(count, device=logits_BC.device)
    positives = own + collectives.rank() * count
    masked_BC = excluded_candidates(anchors, candidates[positives], candidates, known)
    masked_BC |= candidate_weights == 0
    masked_BC[own, positives] = False  # the positive is never masked, even as padding
    logits_BC = logits_BC.masked_fill(masked_BC, _MASKED)
    return nn.functional.cross_entropy(logits_BC, positives, reduction="none")


def excluded_candidates(
    anchors: Tensor, positives: Tensor, candidates: Tensor, known: KnownPairs | None
) -> Tensor:
    """(B, C): candidates that are the anchor itself, its positive, or a known partner."""
    masked = (candidates == anchors[:, None]) | (candidates == positives[:, None])
    if known is not None:
        partners = known.among(_numpy(anchors), _numpy(candidates))
        masked |= torch.from_numpy(partners).to(masked.device)
    return masked


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy()
