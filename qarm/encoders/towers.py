"""Towers: one modality's features into the space of the aligned vector.

Shapes: n items, f feature dimensions, d dimensions of the aligned vector, b attribute buckets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DenseTower(nn.Module):
    """A linear skip plus a small network, on the centred, normalised feature.

    The network's last layer starts at 0 and the skip at the principal axes of the training items
    (``start``), so the untrained tower keeps of the raw space what d dimensions can.
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
        """(n, f) minus the training items' mean, each row of unit length."""
        return nn.functional.normalize(features - self.mean, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """(n, f) -> (n, d)."""
        centred = self.centre(features)
        return self.skip(centred) + self.network(centred)


class AttributesTower(nn.Module):
    """Sum of the hashed values' vectors, weighted by inverse document frequency, of unit weight.

    A row of the table that no training item has stays 0: a value never seen says nothing. In
    training, whole values are dropped at random, so that no item is known by one value alone.
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
        """Take the idf from the items; their weighted values as a sparse matrix, (n, buckets)."""
        count = len(offsets) - 1
        items = torch.bincount(ids, minlength=len(self.idf))
        self.idf.copy_(torch.log((1 + count) / (1 + items.float())) + 1)
        places = torch.stack([torch.repeat_interleave(offsets.diff()), ids])
        size = (count, len(self.idf))
        return torch.sparse_coo_tensor(places, self.weights(ids, offsets), size).coalesce()

    def weights(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Weight of each value, (values,): idf, scaled to length 1 within each item."""
        idf = self.idf[ids]
        owners = torch.repeat_interleave(offsets.diff())
        squares = torch.zeros(len(offsets) - 1, device=idf.device).index_add_(0, owners, idf**2)
        return idf * squares.clamp(min=1e-12).rsqrt()[owners]

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Bucket ids (values,) and offsets (n + 1,) -> (n, d)."""
        weights = nn.functional.dropout(self.weights(ids, offsets), self.dropout, self.training)
        return self.table(ids, offsets, per_sample_weights=weights)
