"""What the ranker knows of each item, as arrays indexed by item_idx that all ranks map.

Samples name items by number only: 50 history items with 31 codes each would take 6 KB per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qarm.errors import InputError
from qarm.training.item_arrays import ArrayFolder, as_matrix, open_arrays, record_batches

MISSING = -1
"""Code of an item that has none."""


@dataclass(frozen=True, kw_only=True)
class ItemSource:
    """Where the arrays come from."""

    rows: int
    """One more than the largest item_idx."""
    embeddings: list[str]
    """Live files of item_embeddings; none: vectors have width 0."""
    encoder_version: str
    """Version of the embeddings to take."""
    codes: list[str]
    """Live files of semantic_ids; none: codes have width 0."""
    codebook_id: str
    """Version of the codes to take."""


@dataclass(frozen=True)
class ItemTable:
    """Arrays with one row per item_idx, n in all.

    Attributes:
        vector: (n, d) float32, aligned vectors; zeros where ``has_vector`` is false.
        has_vector: (n,) bool.
        rq: (n, L) int32, residual k-means codes; -1 where ``has_code`` is false.
        vq: (n, K) int32, ids of the nearest anchors, nearest first; -1 likewise.
        has_code: (n,) bool.
    """

    vector: NDArray[np.float32]
    has_vector: NDArray[np.bool_]
    rq: NDArray[np.int32]
    vq: NDArray[np.int32]
    has_code: NDArray[np.bool_]

    @property
    def rows(self) -> int:
        """N."""
        return len(self.has_vector)


@contextmanager
def open_table(owner: str, source: ItemSource) -> Iterator[ItemTable]:
    """The arrays of one training; called on all ranks together.

    Args:
        owner: URI of the training's own folder.
        source: the tables.

    Raises:
        InputError: vectors or codes of differing lengths, an item_idx out of range or named twice.
    """
    with open_arrays(owner, source, lambda arrays: _fill(arrays, source)) as arrays:
        names = ("vector", "has_vector", "rq", "vq", "has_code")
        yield ItemTable(*(arrays[name] for name in names))


def _fill(arrays: ArrayFolder, source: ItemSource) -> None:
    version = ("encoder_version", source.encoder_version)
    _fill_lists(
        arrays, source.rows, source.embeddings, version, {"vector": np.float32}, "has_vector"
    )
    version = ("codebook_id", source.codebook_id)
    kinds = {"rq": np.int32, "vq": np.int32}
    _fill_lists(arrays, source.rows, source.codes, version, kinds, "has_code")


def _fill_lists(
    arrays: ArrayFolder,
    rows: int,
    files: Sequence[str],
    version: tuple[str, str],
    columns: Mapping[str, DTypeLike],
    known: str,
) -> None:
    """Write list columns into arrays, at their item_idx.

    Args:
        version: column and its value in the rows to take.
        columns: list column -> type of its array.
        known: name of the array that marks the items with a row.
    """
    import pyarrow.compute as pc

    what = f"rows with {version[0]} {version[1]}"
    created: dict[str, NDArray[Any]] = {}
    count = 0
    present = arrays.create(known, (rows,), np.bool_)
    for batch in record_batches(files, ["item_idx", *columns, version[0]]):
        batch = batch.filter(pc.equal(batch.column(version[0]), version[1]))
        if not batch.num_rows:
            continue
        place = batch.column("item_idx").to_numpy()
        if place.max() >= rows or place.min() < 0:
            raise InputError(
                f"{what} have item_idx {place.min()} to {place.max()}, the catalogue ends at "
                f"{rows - 1}; both must come from the same ingest"
            )
        for name, kind in columns.items():
            lists = batch.column(name)
            if name not in created:
                width = len(lists[0])
                missing = MISSING if np.issubdtype(kind, np.integer) else 0
                created[name] = arrays.create(name, (rows, width), kind, fill=missing)
            width = created[name].shape[1]
            created[name][place] = as_matrix(lists, width, f"{what}, column {name}")
        present[place] = True
        count += len(place)
    if count != np.count_nonzero(present):
        raise InputError(
            f"{what}: {count} rows name {np.count_nonzero(present)} items; there must be one row "
            "per item"
        )
    for name, kind in columns.items():
        if name not in created:
            arrays.create(name, (rows, 0), kind)
