"""What training knows of its items, as memory-mapped arrays on each node.

A catalogue's features do not fit in memory, and training needs those of the items that occur in
pairs, at random. One rank a node streams the live files of the tables into ``.npy`` files; all
ranks of the node map them. Items have dense rows 0..n-1 here, in the order of item_idx.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import parquet

from qarm.encoders.encode_content import fetch_contents
from qarm.encoders.fusion import ItemBatch
from qarm.encoders.hashing import attribute_buckets
from qarm.errors import InputError, TrainingError
from qarm.lake import files as lake_files
from qarm.training.shards import readable

_DONE = "store.json"
_POLL_SECONDS = 0.2
_ROWS_A_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """What goes into the store; JSON-able."""

    pair_files: list[str]
    """Live files of alignment_pairs."""
    feature_files: list[str]
    """Live files of item_features."""
    item_files: list[str]
    """Live files of items."""
    backbones: dict[str, str]
    """Modality -> backbone whose rows of item_features are taken."""
    feature_dims: dict[str, int]
    """Modality -> width of its features."""
    buckets: int
    """Rows of the attribute table; 0: no attributes."""
    contents: list[str]
    """Modalities (text, image) whose raw content is kept for end-to-end training."""


class ItemStore:
    """The arrays, mapped read-only.

    Attributes:
        items: (n,) item_idx of each row, ascending.
    """

    def __init__(self, folder: str) -> None:
        with open(os.path.join(folder, _DONE), encoding="utf-8") as file:
            self.spec = StoreSpec(**json.load(file))

        def mapped(name: str) -> NDArray:
            return np.load(os.path.join(folder, f"{name}.npy"), mmap_mode="r")

        self.items = mapped("items")
        self._row_of = mapped("row_of")
        self._features = {m: mapped(f"features_{m}") for m in self.spec.feature_dims}
        self._present = {m: mapped(f"present_{m}") for m in self.spec.feature_dims}
        self._attributes = None
        if self.spec.buckets:
            self._attributes = (mapped("attribute_offsets"), mapped("attribute_ids"))
        self._contents = {
            m: (mapped(f"content_starts_{m}"), mapped(f"content_ends_{m}"), mapped(f"content_{m}"))
            for m in self.spec.contents
        }

    def __len__(self) -> int:
        return len(self.items)

    def rows_of(self, item_idx: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of items.

        Raises:
            InputError: one of them is not in the store.
        """
        rows = self._row_of[np.minimum(item_idx, len(self._row_of) - 1)].astype(np.int64)
        if len(rows) and (rows.min() < 0 or item_idx.max() >= len(self._row_of)):
            unknown = item_idx[(rows < 0) | (item_idx >= len(self._row_of))]
            raise InputError(f"items {unknown[:3].tolist()} occur in no training pair")
        return rows

    def batch(self, rows: NDArray[np.int64], *, features_of: Sequence[str] = ()) -> ItemBatch:
        """What the encoder needs of the items in ``rows``.

        Args:
            rows: (n,).
            features_of: modalities whose cached features are wanted though their backbone is
                trained.
        """
        batch = ItemBatch(len(rows))
        for name in self.spec.feature_dims:
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
        found = [bytes(data[starts[r] : ends[r]]) for r in rows]
        return [content.decode("utf-8") for content in found] if name == "text" else found


def open_store(folder: str, spec: StoreSpec, builds: bool) -> ItemStore:
    """The store in ``folder``, which one process of a node builds and the others wait for.

    Args:
        folder: a local folder; a finished store that is there already is taken.
        spec: what goes into it.
        builds: whether this process builds it.
    """
    if builds and not os.path.exists(os.path.join(folder, _DONE)):
        temporary = f"{folder}.{uuid.uuid4().hex[:8]}"
        os.makedirs(temporary)
        try:
            build(temporary, spec)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    while not os.path.exists(os.path.join(folder, _DONE)):
        time.sleep(_POLL_SECONDS)
    return ItemStore(folder)


def build(folder: str, spec: StoreSpec) -> None:
    """Stream the tables into arrays under ``folder``; memory holds one batch and the row map."""
    row_of, count = _row_map(spec.pair_files)

    def save(name: str, array: NDArray) -> None:
        np.save(os.path.join(folder, f"{name}.npy"), array)

    def create(name: str, shape: tuple[int, ...], kind: str) -> NDArray:
        path = os.path.join(folder, f"{name}.npy")
        if 0 in shape:
            np.save(path, np.zeros(shape, dtype=kind))
            return np.load(path)
        return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)

    save("items", np.flatnonzero(row_of >= 0).astype(np.int64))
    save("row_of", row_of)
    features = {m: create(f"features_{m}", (count, f), "<f4") for m, f in spec.feature_dims.items()}
    present = {m: create(f"present_{m}", (count,), "?") for m in spec.feature_dims}
    columns = ["item_idx", "modality", "backbone", "vector"]
    for batch in _batches(spec.feature_files if features else [], columns):
        _add_features(batch, spec, row_of, features, present)
    if spec.buckets:
        _save_attributes(spec, row_of, count, save)
    for modality in spec.contents:
        _save_contents(folder, modality, spec, row_of, count, present[modality], save)
    with open(os.path.join(folder, _DONE), "w", encoding="utf-8") as file:
        json.dump(asdict(spec), file)


def _batches(files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for uri in files:
        with lake_files.open_file(readable(uri)) as source:
            reader = parquet.ParquetFile(source)
            yield from reader.iter_batches(batch_size=_ROWS_A_BATCH, columns=list(columns))


def _row_map(pair_files: Sequence[str]) -> tuple[NDArray[np.int32], int]:
    """item_idx -> row, -1 for items in no pair: 4 bytes an item of the catalogue."""
    seen = np.zeros(0, dtype=bool)
    for batch in _batches(pair_files, ["trigger", "target"]):
        for name in ("trigger", "target"):
            items = batch.column(name).to_numpy()
            if len(items) and (top := int(items.max())) >= len(seen):
                grown = np.zeros(max(top + 1, 2 * len(seen)), dtype=bool)
                grown[: len(seen)] = seen
                seen = grown
            seen[items] = True
    count = int(seen.sum())
    if count >= 2**31:
        raise TrainingError(f"{count} items in training pairs; at most 2^31 - 1 can be trained on")
    row_of = np.full(len(seen), -1, dtype=np.int32)
    row_of[seen] = np.arange(count, dtype=np.int32)
    return row_of, count


def _known(batch: pa.RecordBatch, row_of: NDArray[np.int32]) -> tuple[pa.RecordBatch, NDArray]:
    """The batch's rows whose item has a row, and those rows."""
    items = batch.column("item_idx").to_numpy()
    rows = np.where(items < len(row_of), row_of[np.minimum(items, len(row_of) - 1)], -1)
    return batch.filter(pa.array(rows >= 0)), rows[rows >= 0]


def _add_features(
    batch: pa.RecordBatch,
    spec: StoreSpec,
    row_of: NDArray[np.int32],
    features: dict[str, NDArray],
    present: dict[str, NDArray],
) -> None:
    batch, rows = _known(batch, row_of)
    modalities = batch.column("modality").to_numpy(zero_copy_only=False)
    backbones = batch.column("backbone").to_numpy(zero_copy_only=False)
    for modality, width in spec.feature_dims.items():
        wanted = (modalities == modality) & (backbones == spec.backbones[modality])
        vectors = batch.column("vector").filter(pa.array(wanted)).flatten().to_numpy()
        if len(vectors) != wanted.sum() * width:
            raise InputError(
                f"item_features: {modality} vectors of {spec.backbones[modality]} should have "
                f"{width} numbers each; {wanted.sum()} of them have {len(vectors)} together"
            )
        features[modality][rows[wanted]] = vectors.reshape(-1, width)
        present[modality][rows[wanted]] = True


def _save_attributes(
    spec: StoreSpec, row_of: NDArray[np.int32], count: int, save: Callable[[str, NDArray], None]
) -> None:
    rows_seen, ids_seen = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for batch in _batches(spec.item_files, ["item_idx", "attributes"]):
        batch, rows = _known(batch, row_of)
        offsets, ids = attribute_buckets(batch.column("attributes"), spec.buckets)
        rows_seen.append(np.repeat(rows, np.diff(offsets)).astype(np.int64))
        ids_seen.append(ids)
    rows, ids = np.concatenate(rows_seen), np.concatenate(ids_seen)
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=count)
    save("attribute_offsets", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    save("attribute_ids", ids[order])


def _save_contents(
    folder: str,
    modality: str,
    spec: StoreSpec,
    row_of: NDArray[np.int32],
    count: int,
    present: NDArray,
    save: Callable[[str, NDArray], None],
) -> None:
    """Raw content, one after the other in the order of the files, and where each row's lies."""
    starts, ends = np.zeros(count, np.int64), np.zeros(count, np.int64)
    path = os.path.join(folder, "contents.tmp")
    columns = ["item_idx", "text"] if modality == "text" else ["item_idx", "image", "image_uri"]
    with open(path, "wb") as sink:
        for batch in _batches(spec.item_files, columns):
            batch, rows = _known(batch, row_of)
            # An image that could not be fetched has no feature, so it is not present.
            there = present[rows]
            batch, rows = batch.filter(pa.array(there)), rows[there]
            for row, content in zip(rows, _raw(batch, modality), strict=True):
                if content:
                    starts[row] = sink.tell()
                    sink.write(content)
                    ends[row] = sink.tell()
    size = os.path.getsize(path)
    data = np.memmap(path, dtype="u1", mode="r") if size else np.zeros(0, "u1")
    save(f"content_starts_{modality}", starts)
    save(f"content_ends_{modality}", ends)
    save(f"content_{modality}", data)
    os.remove(path)


def _raw(batch: pa.RecordBatch, modality: str) -> list[bytes | None]:
    if modality == "text":
        return batch.column("text").cast(pa.binary()).to_pylist()
    return fetch_contents(batch.column("image"), batch.column("image_uri"))
