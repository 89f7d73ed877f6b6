"""A small codebook, items with its codes, and random batches of samples."""

from __future__ import annotations

import numpy as np
import torch

from qarm.codes.codebook import Codebook
from qarm.ranking.code_tables import RqRows, TableStart
from qarm.ranking.inputs import Lookup
from qarm.ranking.item_table import ItemTable

ITEMS, D, LENGTH = 40, 8, 6
SIZES = (4, 5, 3)
CONTENT_START = TableStart("content", 0)


def make_book() -> Codebook:
    """Three levels and 12 anchors."""
    rng = np.random.default_rng(0)
    levels = tuple(rng.standard_normal((size, D)).astype(np.float32) for size in SIZES)
    anchors = rng.standard_normal((12, D)).astype(np.float32)
    return Codebook(levels=levels, anchors=anchors, anchor_items=np.arange(12))


def make_table(book: Codebook) -> ItemTable:
    """Item 0 has neither vector nor code."""
    rng = np.random.default_rng(1)
    vector = rng.standard_normal((ITEMS, D)).astype(np.float32)
    rq, _ = book.rq(vector)
    vq = book.vq(vector, 5)
    known = np.arange(ITEMS) > 0
    vector[0], rq[0], vq[0] = 0, -1, -1
    return ItemTable(vector, known, rq, vq, known)


def lookup_of(table: ItemTable) -> tuple[Lookup, RqRows]:
    """Its look-up, and the rows of prefixes."""
    numbers = RqRows.of(table, SIZES, 1000)
    return Lookup(table, numbers.rows(table.rq), item_buckets=ITEMS, user_buckets=7), numbers


def batch_of(rows: int = 9, seed: int = 0, length: int = LENGTH) -> dict[str, torch.Tensor]:
    """Columns of random samples; the first has no history."""
    rng = np.random.default_rng(seed)
    history_length = rng.integers(0, LENGTH + 1, rows)
    history_length[0] = 0
    item = rng.integers(0, ITEMS, (rows, length))
    item[np.arange(length) < length - history_length[:, None]] = -1
    numbers = {
        "user_idx": rng.integers(0, 7, rows),
        "item_idx": rng.integers(0, ITEMS, rows),
        "ts": np.full(rows, 10_000_000),
        "history_length": history_length.astype(np.int32),
        "history_item_idx": item,
        "history_ts": np.where(item >= 0, rng.integers(0, 10_000_000, item.shape), 0),
    }
    rates = {"user_rate": 0.4, "item_rate": 0.6, "user_count": 3.0, "item_count": 5.0}
    batch = {name: torch.from_numpy(values) for name, values in numbers.items()}
    return batch | {name: torch.full((rows,), value) for name, value in rates.items()}
