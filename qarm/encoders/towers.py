"""Towers: map the features of one modality into the space of the aligned vector.

Shapes: n items, f feature dimensions, d dimensions of the aligned vector, b attribute buckets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DenseTower(nn.Module):
    """A linear skip connection plus a small network, on the centred, normalised feature.

    The last layer of the network starts at 0 and the skip connection at the principal axes of the
    training items (``ItemEncoder.start``), so that the untrained tower is the best d-dimensional
    linear approximation of the raw space.
    """

    mean: Tensor

    def __init__(self, features: int, dimensions: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.skip = nn.Linear(features, dimensions, bias=False)
        last = nn.Linear(hidden, dimensions)
        self.network = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(features, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            last,
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def centre(self, features: Tensor) -> Tensor:
        """(n, f) minus the mean of the training items, each row scaled to unit length."""
        return nn.functional.normalize(features - self.mean, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """(n, f) -> (n, d)."""
        centred = self.centre(features)
        projected: Tensor = self.skip(centred) + self.network(centred)
        return projected


class AttributesTower(nn.Module):
    """Sum of the vectors of hashed values, weighted by inverse document frequency.

    Weights of an item have Euclidean norm 1. Rows of the table without a training item stay 0, so
    that unseen values have no effect. Dropout drops whole values, so that an item's vector does not
    depend on one value alone.
    """

    idf: Tensor

    def __init__(self, buckets: int, dimensions: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("idf", torch.ones(buckets))
        self.dropout = dropout
        self.table = nn.EmbeddingBag(buckets, dimensions, mode="sum", include_last_offset=True)
        nn.init.zeros_(self.table.weight)

    @torch.no_grad()
    def start(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Set the idf from the items; returns their weights as a sparse matrix, (n, buckets)."""
        count = len(offsets) - 1
        items = torch.bincount(ids, minlength=len(self.idf))
        self.idf.copy_(torch.log((1 + count) / (1 + items.float())) + 1)
        places = torch.stack([torch.repeat_interleave(offsets.diff()), ids])
        size = (count, len(self.idf))
        return torch.sparse_coo_tensor(places, self.weights(ids, offsets), size).coalesce()

    def weights(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Weight of each value, (values,): its idf, scaled to norm 1 within each item."""
        idf = self.idf[ids]
        owners = torch.repeat_interleave(offsets.diff())
        squares = torch.zeros(len(offsets) - 1, device=idf.device).index_add_(0, owners, idf**2)
        return idf * squares.clamp(min=1e-12).rsqrt()[owners]

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Bucket ids (values,) and offsets (n + 1,) -> (n, d)."""
        weights = nn.functional.dropout(self.weights(ids, offsets), self.dropout, self.training)
        summed: Tensor = self.table(ids, offsets, per_sample_weights=weights)
        return summed
