"""What the ranker knows of each item, as arrays indexed by item_idx and mapped into memory.

Samples name items by number only; 50 history items with 31 codes each would be 6 KB a row. Each
rank therefore maps the same few arrays and looks items up a batch at a time. They are built once a
machine and run, by streaming the Parquet files of the pinned tables: nothing is collected on the
driver, and memory stays at one record batch.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.errors import InputError
from qarm.lake import files

if TYPE_CHECKING:
    import pyarrow as pa

_ARRAYS = ("vector", "has_vector", "rq", "vq", "has_code")
_BATCH_ROWS = 65_536
MISSING = -1
"""Code of an item that has none."""


@dataclass(frozen=True)
class ItemTable:
    """Arrays with one row an item_idx, n in all.

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
        """n."""
        return len(self.has_vector)


def build(
    folder: str,
    *,
    rows: int,
    embeddings: Sequence[str] = (),
    encoder_version: str = "",
    codes: Sequence[str] = (),
    codebook_id: str = "",
) -> ItemTable:
    """Build the arrays in a local folder, unless they are there; map them.

    The folder appears at once, whole: two processes may build it at the same time.

    Args:
        folder: local path.
        rows: n, one more than the largest item_idx.
        embeddings: live files of item_embeddings; none: vectors have width 0.
        encoder_version: the one to take of them.
        codes: live files of semantic_ids; none: codes have width 0.
        codebook_id: the one to take of them.

    Raises:
        InputError: vectors or codes of differing lengths, an item_idx out of range or named twice.
    """
    marker = {
        "rows": rows,
        "encoder_version": encoder_version,
        "codebook_id": codebook_id,
        "files": [*sorted(embeddings), *sorted(codes)],
    }
    if not _is_built(folder, marker):
        temporary = Path(f"{folder}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir(parents=True)
        try:
            _fill(
                temporary,
                rows,
                _batches(embeddings, ["item_idx", "vector"], "encoder_version", encoder_version),
                {"vector": np.dtype(np.float32)},
                known="has_vector",
                what=f"item_embeddings of encoder {encoder_version}",
            )
            _fill(
                temporary,
                rows,
                _batches(codes, ["item_idx", "rq", "vq"], "codebook_id", codebook_id),
                {"rq": np.dtype(np.int32), "vq": np.dtype(np.int32)},
                known="has_code",
                what=f"semantic_ids of codebook {codebook_id}",
            )
            (temporary / "table.json").write_text(json.dumps(marker), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            try:
                os.rename(temporary, folder)
            except OSError:
                if not _is_built(folder, marker):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return ItemTable(**{n: np.load(os.path.join(folder, f"{n}.npy"), "r") for n in _ARRAYS})


def _is_built(folder: str, marker: dict[str, Any]) -> bool:
    path = Path(folder) / "table.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == marker


def _batches(
    uris: Sequence[str], columns: list[str], version_column: str, version: str
) -> Iterator[pa.RecordBatch]:
    """Record batches of the rows of one version."""
    import pyarrow.compute as pc
    from pyarrow import parquet

    from qarm.training.shards import readable

    for uri in uris:
        with files.open_file(readable(uri)) as source:
            file = parquet.ParquetFile(source)
            for batch in file.iter_batches(_BATCH_ROWS, columns=[*columns, version_column]):
                yield batch.filter(pc.equal(batch.column(version_column), version))


def _fill(
    folder: Path,
    rows: int,
    batches: Iterator[pa.RecordBatch],
    columns: dict[str, np.dtype],
    *,
    known: str,
    what: str,
) -> None:
    """Write the list columns of ``batches`` into arrays of ``folder``, at their item_idx."""
    arrays: dict[str, NDArray] = {}
    rows_seen = 0
    present = np.lib.format.open_memmap(folder / f"{known}.npy", "w+", np.bool_, (rows,))
    for batch in batches:
        if not batch.num_rows:
            continue
        place = batch.column("item_idx").to_numpy()
        if place.max() >= rows or place.min() < 0:
            raise InputError(
                f"{what} has item_idx {place.min()} to {place.max()}, the catalogue ends at "
                f"{rows - 1}; both must come from the same ingest"
            )
        for name, dtype in columns.items():
            lists = batch.column(name)
            lengths = lists.value_lengths().to_numpy()
            width = arrays[name].shape[1] if name in arrays else int(lengths[0])
            if (lengths != width).any():
                raise InputError(
                    f"{what}: lists of column {name} must have one length, seen {width} and "
                    f"{lengths[lengths != width][0]}"
                )
            if name not in arrays:
                array = np.lib.format.open_memmap(
                    folder / f"{name}.npy", "w+", dtype, (rows, width)
                )
                if np.issubdtype(dtype, np.integer):
                    array[:] = MISSING
                arrays[name] = array
            arrays[name][place] = lists.flatten().to_numpy().reshape(-1, width)
        present[place] = True
        rows_seen += len(place)
    if rows_seen != np.count_nonzero(present):
        raise InputError(
            f"{what}: {rows_seen} rows name {np.count_nonzero(present)} items; there must be one "
            "row an item"
        )
    for name, dtype in columns.items():
        if name not in arrays:
            arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (rows, 0))
    for array in (*arrays.values(), present):
        array.flush()
