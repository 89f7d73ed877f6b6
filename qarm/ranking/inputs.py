"""From a batch of samples to the tensors that the model reads.

With their histories 1,000 samples refer to 51,000 items, most of them more than once. Everything
that depends on the item alone is computed once per distinct item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qarm.ranking.dense import DAY_SECONDS, dense_features

if TYPE_CHECKING:
    from qarm.ranking.item_table import ItemTable

_HASH = 0x9E3779B97F4A7C15

SAMPLE_COLUMNS = (
    "user_idx",
    "item_idx",
    "ts",
    "weight",
    "user_count",
    "user_rate",
    "item_count",
    "item_rate",
    "history_length",
    "history_item_idx",
    "history_ts",
)
"""Columns of ranking_samples that are read in addition to the labels."""


@dataclass(frozen=True)
class Items:
    """The U distinct items of a batch.

    Attributes:
        id_row: (U,) row of the id tables.
        vector: (U, d) aligned vectors, zeros where there is none.
        rq_rows: (U, L) rows of the RQ table, 0 where there is none.
        vq_rows: (U, K) rows of the VQ table, 0 where there is none.
    """

    id_row: Tensor
    vector: Tensor
    rq_rows: Tensor
    vq_rows: Tensor


@dataclass(frozen=True)
class Inputs:
    """A batch of B samples; histories are cut to H, the longest in the batch.

    Attributes:
        items: distinct items.
        target: (B,) place of the target among them.
        history: (B, H) places of the history's items; arbitrary where padded.
        is_real: (B, H) whether the entry is real.
        age: (B, H) log(1 + days) between the entry and the sample, 0 where padded.
        user_row: (B,) row of the user table.
        dense: (B, len(DENSE)) dense features, not normalised.
    """

    items: Items
    target: Tensor
    history: Tensor
    is_real: Tensor
    age: Tensor
    user_row: Tensor
    dense: Tensor


@dataclass(frozen=True)
class Lookup:
    """Turns indices of items and users into rows of tables.

    Attributes:
        table: arrays by item_idx, n items.
        rq_rows: (n, L) int32, see ``code_tables.RqRows``.
        item_buckets, user_buckets: rows of the id tables.
    """

    table: ItemTable
    rq_rows: NDArray[np.int32]
    item_buckets: int
    user_buckets: int

    def inputs(self, batch: Mapping[str, Tensor]) -> Inputs:
        """The model's input for a batch of ranking_samples."""
        longest = max(1, int(batch["history_length"].max()))
        history = batch["history_item_idx"][:, -longest:]
        is_real = history >= 0
        target = batch["item_idx"]
        # Padding refers to the target, so that it adds no item; the mask excludes it.
        named = torch.cat([target, torch.where(is_real, history, target[:, None]).reshape(-1)])
        items, places = distinct(named.numpy(), self.table.rows)
        place = torch.from_numpy(places)
        seconds = (batch["ts"][:, None] - batch["history_ts"][:, -longest:]).float()
        age = torch.log1p(seconds.clamp_min(0.0) / DAY_SECONDS) * is_real
        return Inputs(
            items=self.items(items),
            target=place[: len(target)],
            history=place[len(target) :].view(history.shape),
            is_real=is_real,
            age=age,
            user_row=torch.from_numpy(bucket(batch["user_idx"].numpy(), self.user_buckets)),
            dense=dense_features(batch, recency=age[:, -1]),
        )

    def items(self, item_idx: NDArray[np.int64]) -> Items:
        """Rows of tables and vectors of the items (U,)."""
        table = self.table
        return Items(
            id_row=torch.from_numpy(bucket(item_idx, self.item_buckets)),
            vector=torch.from_numpy(table.vector[item_idx]),
            rq_rows=torch.from_numpy(self.rq_rows[item_idx].astype(np.int64)),
            vq_rows=torch.from_numpy(table.vq[item_idx].astype(np.int64) + 1),
        )


def distinct(item_idx: NDArray[np.int64], rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct indices below ``rows``, ascending, and the place of each index among them."""
    if rows > 8 * len(item_idx):  # a catalogue much larger than the batch: sort the batch
        items, places = np.unique(item_idx, return_inverse=True)
        return items, places
    seen = np.zeros(rows, np.int64)
    seen[item_idx] = 1
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[item_idx]


def bucket(numbers: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """Row of each index in a table of ``buckets`` rows: the index itself if it fits, else a hash.

    Fibonacci hashing (Knuth, vol. 3, 6.4). A table that is large enough has no collisions.
    """
    numbers = np.asarray(numbers, np.int64)
    if not len(numbers) or numbers.max() < buckets:
        return numbers
    mixed = (numbers.astype(np.uint64) * np.uint64(_HASH)) >> np.uint64(24)
    return np.where(numbers < buckets, numbers, (mixed % np.uint64(buckets)).astype(np.int64))
