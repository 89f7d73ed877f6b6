"""Per-item arrays that all ranks of a node map into memory.

A batch names its items by number, and what is known of each item is looked up in arrays that are
too large for every rank to hold. Once per node and training, one rank streams the live files of the
pinned tables into ``.npy`` files in the node's temporary folder; all ranks of the node map them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qarm.errors import InputError
from qarm.lake import files as lake_files
from qarm.temporary import check_own, in_use, remove_abandoned
from qarm.training import collectives
from qarm.training.shards import readable
from qarm.training.wire import to_json

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 4096


class ArrayFolder:
    """The arrays of one local folder, by name."""

    def __init__(self, path: str) -> None:
        self.path = path

    def _file(self, name: str) -> str:
        return os.path.join(self.path, f"{name}.npy")

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array, mapped read-only."""
        mapped: NDArray[Any] = np.load(self._file(name), mmap_mode="r")
        return mapped

    def save(self, name: str, array: NDArray[Any]) -> None:
        """Write a whole array."""
        np.save(self._file(name), array)

    def create(
        self, name: str, shape: tuple[int, ...], dtype: DTypeLike, fill: int = 0
    ) -> NDArray[Any]:
        """A new array that is filled with ``fill``, to be written to in place."""
        if 0 in shape:  # nothing to map
            array = np.zeros(shape, dtype)
            self.save(name, array)
            return array
        mapped: NDArray[Any] = np.lib.format.open_memmap(self._file(name), "w+", dtype, shape)
        if fill:
            mapped[:] = fill
        return mapped


@contextmanager
def open_arrays(
    owner: str, about: Any, fill: Callable[[ArrayFolder], None]
) -> Iterator[ArrayFolder]:
    """The arrays that ``fill`` writes; called on all ranks together.

    The rank of local number 0 writes them, unless a killed run of the same training has left them
    complete, and removes them at the end. The others wait for it.

    Args:
        owner: URI of the training's own folder, so that two trainings never share arrays.
        about: a dataclass from which alone the arrays follow.
        fill: writes the arrays to the folder.

    Raises:
        StorageError: a folder of that name is there that is not this user's alone.
    """
    digest = hashlib.sha256(f"{owner}\n{to_json(about)}".encode()).hexdigest()[:16]
    folder = os.path.join(tempfile.gettempdir(), f"qarm-items-{digest}")
    builds = collectives.local_rank() == 0
    if builds and not os.path.lexists(folder):
        remove_abandoned()
        _build(folder, fill)
    collectives.barrier()
    check_own(folder)
    try:
        with in_use(folder):
            yield ArrayFolder(folder)
    finally:
        if builds:
            shutil.rmtree(folder, ignore_errors=True)


def _build(folder: str, fill: Callable[[ArrayFolder], None]) -> None:
    """Fill a folder that appears under its name only when it is complete."""
    temporary = f"{folder}.{uuid.uuid4().hex[:8]}"
    os.makedirs(temporary, mode=0o700)
    try:
        fill(ArrayFolder(temporary))
        try:
            os.replace(temporary, folder)
        except OSError:  # another executor on this node was faster
            if not os.path.exists(folder):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def record_batches(files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns of Parquet files, a few thousand rows at a time."""
    from pyarrow import parquet

    for uri in files:
        with lake_files.open_file(readable(uri)) as source:
            reader = parquet.ParquetFile(source)
            yield from reader.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns))


def as_matrix(lists: pa.ListArray, width: int, what: str) -> NDArray[Any]:
    """The lists as rows of a matrix, (len(lists), width).

    Args:
        what: what they are, for the error.

    Raises:
        InputError: a list of another length, or null.
    """
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    wrong = lengths[lengths != width]
    if len(wrong):
        raise InputError(f"{what}: all lists must have length {width}, {wrong[0]} was seen")
    rows: NDArray[Any] = lists.flatten().to_numpy().reshape(-1, width)
    return rows
