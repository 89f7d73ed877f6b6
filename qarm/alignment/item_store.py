"""What the encoder needs of each item that occurs in pairs, in arrays that all ranks map.

The features of a whole catalogue do not fit in memory, and training reads those of the paired items
at random. Items have dense rows 0..n-1 here, in the order of item_idx.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from qarm.alignment.encoder_task import ItemFiles
from qarm.encoders.encode_content import fetch_contents
from qarm.encoders.fusion import ItemBatch
from qarm.encoders.hashing import attribute_buckets
from qarm.errors import InputError, TrainingError
from qarm.training.item_arrays import ArrayFolder, as_matrix, open_arrays, record_batches


class ItemStore:
    """The arrays, mapped read-only.

    Attributes:
        items: (n,) item_idx of each row, ascending.
    """

    def __init__(self, arrays: ArrayFolder, source: ItemFiles) -> None:
        self.source = source
        self.items = arrays["items"]
        self._row_of = arrays["row_of"]
        self._features = {m: arrays[f"features_{m}"] for m in source.feature_dims}
        self._present = {m: arrays[f"present_{m}"] for m in source.feature_dims}
        self._attributes = None
        if source.buckets:
            self._attributes = (arrays["attribute_offsets"], arrays["attribute_ids"])
        self._contents = {
            m: (arrays[f"content_starts_{m}"], arrays[f"content_ends_{m}"], arrays[f"content_{m}"])
            for m in source.contents
        }

    def __len__(self) -> int:
        return len(self.items)

    def rows_of(self, item_idx: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of items.

        Raises:
            InputError: one of them is not in the store.
        """
        known = np.minimum(item_idx, len(self._row_of) - 1)
        rows: NDArray[np.int64] = self._row_of[known].astype(np.int64)
        if len(rows) and (rows.min() < 0 or item_idx.max() >= len(self._row_of)):
            unknown = item_idx[(rows < 0) | (item_idx >= len(self._row_of))]
            raise InputError(f"items {unknown[:3].tolist()} occur in no training pair")
        return rows

    def batch(self, rows: NDArray[np.int64], *, features_of: Sequence[str] = ()) -> ItemBatch:
        """The encoder's input for the items in ``rows``.

        Args:
            rows: (n,).
            features_of: modalities whose cached features are included although their backbone is
                trained.
        """
        batch = ItemBatch(len(rows))
        for name in self.source.feature_dims:
            present = self._present[name][rows]
            batch.present[name] = torch.from_numpy(present)
            if name in self._contents:
                batch.contents[name] = self._read_contents(name, rows[present])
            if name not in self._contents or name in features_of:
                batch.features[name] = torch.from_numpy(self._features[name][rows])
        if self._attributes is not None:
            offsets, ids = self._attributes
            starts, counts = offsets[rows], offsets[rows + 1] - offsets[rows]
            batch.offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
            places = np.repeat(starts - batch.offsets[:-1].numpy(), counts)
            places += np.arange(len(places))
            batch.ids = torch.from_numpy(ids[places].astype(np.int64))
        return batch

    def _read_contents(self, name: str, rows: NDArray[np.int64]) -> list[Any]:
        starts, ends, data = self._contents[name]
        contents = [bytes(data[starts[r] : ends[r]]) for r in rows]
        return [c.decode("utf-8") for c in contents] if name == "text" else contents


@contextmanager
def open_store(owner: str, source: ItemFiles) -> Iterator[ItemStore]:
    """The store of one training; called on all ranks together.

    Args:
        owner: URI of the training's own folder.
        source: what goes into the store.

    Raises:
        InputError: features of another width than ``source`` says.
    """
    with open_arrays(owner, source, lambda arrays: _fill(arrays, source)) as arrays:
        yield ItemStore(arrays, source)


def _fill(arrays: ArrayFolder, source: ItemFiles) -> None:
    """Stream the tables into arrays; memory holds one record batch and the row map."""
    row_of, count = _row_map(source.pair_files)
    arrays.save("items", np.flatnonzero(row_of >= 0).astype(np.int64))
    arrays.save("row_of", row_of)
    present = _fill_features(arrays, source, row_of, count)
    if source.buckets:
        _fill_attributes(arrays, source, row_of, count)
    for modality in source.contents:
        _fill_contents(arrays, source, modality, row_of, present[modality])


def _row_map(pair_files: Sequence[str]) -> tuple[NDArray[np.int32], int]:
    """item_idx -> row, -1 for items in no pair: 4 bytes per item of the catalogue."""
    seen = np.zeros(0, dtype=bool)
    for batch in record_batches(pair_files, ["trigger", "target"]):
        for name in ("trigger", "target"):
            items = batch.column(name).to_numpy()
            if len(items) and (top := int(items.max())) >= len(seen):
                grown = np.zeros(max(top + 1, 2 * len(seen)), dtype=bool)
                grown[: len(seen)] = seen
                seen = grown
            seen[items] = True
    count = int(seen.sum())
    if count >= 2**31:
        raise TrainingError(f"training pairs have {count} items; at most 2^31 - 1 are supported")
    row_of = np.full(len(seen), -1, dtype=np.int32)
    row_of[seen] = np.arange(count, dtype=np.int32)
    return row_of, count


def _paired(
    files: Sequence[str], columns: Sequence[str], row_of: NDArray[np.int32]
) -> Iterator[tuple[pa.RecordBatch, NDArray[Any]]]:
    """Record batches cut to the items that have a row, and those rows."""
    for batch in record_batches(files, ["item_idx", *columns]):
        items = batch.column("item_idx").to_numpy()
        rows = np.where(items < len(row_of), row_of[np.minimum(items, len(row_of) - 1)], -1)
        yield batch.filter(pa.array(rows >= 0)), rows[rows >= 0]


def _fill_features(
    arrays: ArrayFolder, source: ItemFiles, row_of: NDArray[np.int32], count: int
) -> dict[str, NDArray[Any]]:
    """Features of each modality; which items have them."""
    widths = source.feature_dims
    features = {m: arrays.create(f"features_{m}", (count, w), "<f4") for m, w in widths.items()}
    present = {m: arrays.create(f"present_{m}", (count,), "?") for m in widths}
    columns = ["modality", "backbone", "vector"]
    for batch, rows in _paired(source.feature_files if widths else [], columns, row_of):
        modalities = batch.column("modality").to_numpy(zero_copy_only=False)
        backbones = batch.column("backbone").to_numpy(zero_copy_only=False)
        for modality, width in widths.items():
            wanted = (modalities == modality) & (backbones == source.backbones[modality])
            vectors = batch.column("vector").filter(pa.array(wanted))
            what = f"item_features, {modality} vectors of {source.backbones[modality]}"
            features[modality][rows[wanted]] = as_matrix(vectors, width, what)
            present[modality][rows[wanted]] = True
    return present


def _fill_attributes(
    arrays: ArrayFolder, source: ItemFiles, row_of: NDArray[np.int32], count: int
) -> None:
    """Hashed attributes of all rows in compressed rows: offsets and ids."""
    all_rows, all_ids = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for batch, rows in _paired(source.item_files, ["attributes"], row_of):
        offsets, ids = attribute_buckets(batch.column("attributes"), source.buckets)
        all_rows.append(np.repeat(rows, np.diff(offsets)).astype(np.int64))
        all_ids.append(ids)
    rows, ids = np.concatenate(all_rows), np.concatenate(all_ids)
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=count)
    arrays.save("attribute_offsets", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    arrays.save("attribute_ids", ids[order])


def _fill_contents(
    arrays: ArrayFolder,
    source: ItemFiles,
    modality: str,
    row_of: NDArray[np.int32],
    present: NDArray[Any],
) -> None:
    """Raw contents, concatenated in the order of the files, and where each row's lies."""
    starts, ends = np.zeros(len(present), np.int64), np.zeros(len(present), np.int64)
    path = os.path.join(arrays.path, "contents.tmp")
    columns = ["text"] if modality == "text" else ["image", "image_uri"]
    with open(path, "wb") as sink:
        for batch, rows in _paired(source.item_files, columns, row_of):
            # An image that could not be fetched has no feature, so it is not present.
            there = present[rows]
            contents = _raw(batch.filter(pa.array(there)), modality)
            for row, content in zip(rows[there], contents, strict=True):
                if content:
                    starts[row] = sink.tell()
                    sink.write(content)
                    ends[row] = sink.tell()
    size = os.path.getsize(path)
    data = np.memmap(path, dtype="u1", mode="r") if size else np.zeros(0, "u1")
    arrays.save(f"content_starts_{modality}", starts)
    arrays.save(f"content_ends_{modality}", ends)
    arrays.save(f"content_{modality}", data)
    os.remove(path)


def _raw(batch: pa.RecordBatch, modality: str) -> list[bytes | None]:
    if modality == "text":
        texts: list[bytes | None] = batch.column("text").cast(pa.binary()).to_pylist()
        return texts
    return fetch_contents(batch.column("image"), batch.column("image_uri"))
