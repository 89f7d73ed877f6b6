"""Rows of ranking samples to tensors: ours, Petastorm's stock loader, and raw Arrow batches.

    .venv/bin/python benchmarks/loader.py [--rows 1000000] [--runs 7] [--folder DIR]

A row has 20 scalars, three lists of 50 and one of 25. The table is written by
``in_training_order`` and read on one rank with the shipped settings: 8 shards, rows shuffled
across row groups. Each side has a process of its own with the environment of ranks, so that heap
fragmentation by one side does not slow the other; both are warm. Peers read the same files, in
batches of the same size, unshuffled or by row groups only:

* ``BatchedDataLoader`` over ``make_batch_reader``, with threads and their defaults;
* ``ParquetFile.iter_batches`` and ``Dataset.to_batches`` of pyarrow, which make no tensors.

``equal``: both gave the same rows (their number, the sum of each column's values).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from logs import session
from timing import interleaved, report, say

from qarm.config.training import Loader, Training
from qarm.lake.tables import Lake
from qarm.training.launch import child_environment
from qarm.training.loader import WEIGHT, EpochLoader
from qarm.training.shards import readable
from qarm.training.writer import FixedList, in_training_order
from schemas.table import Table, col

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 4096
_CHUNK = 50_000
LISTS = {"history_item_idx": 50, "history_ts": 50, "history_codes": 50, "dense": 25}
LONGS = ("sample_id", "user_idx", "item_idx", "ts", *(f"count_{i}" for i in range(6)))
FLOATS = tuple(f"rate_{i}" for i in range(10))
COLUMNS = (*LONGS, *FLOATS, *LISTS)
TYPES = {"history_codes": "array<int>", "dense": "array<float>"}
TABLE = Table(
    name="bench_samples",
    comment="",
    columns=(
        *(col(name, "bigint", "") for name in LONGS),
        *(col(name, "float", "") for name in FLOATS),
        *(col(name, TYPES.get(name, "array<bigint>"), "") for name in LISTS),
    ),
    key=("sample_id",),
)


def samples(rows: int, start: int) -> pa.Table:
    """Random rows: item indices by Zipf's law, times within three years, ids unique."""
    random = np.random.default_rng(start)

    def lists(values: NDArray, length: int) -> pa.Array:
        offsets = np.arange(0, (rows + 1) * length, length, dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    columns = {name: random.integers(0, 1_000_000, rows) for name in LONGS}
    columns |= {"sample_id": start + np.arange(rows)}
    columns |= {name: random.random(rows, dtype=np.float32) for name in FLOATS}
    wide = {
        "history_item_idx": random.zipf(1.2, rows * 50) % 1_000_000,
        "history_ts": 1_600_000_000 + random.integers(0, 10**8, rows * 50),
        "history_codes": random.integers(0, 4096, rows * 50).astype(np.int32),
        "dense": random.random(rows * 25, dtype=np.float32),
    }
    return pa.table(columns | {name: lists(wide[name], LISTS[name]) for name in LISTS})


def written(folder: Path, rows: int) -> list[str]:
    """Files of the training table, written unless they exist."""
    root, raw = folder / f"loader-{rows}", folder / f"loader-{rows}-raw"
    done = root / "files.txt"
    if not done.exists():
        say(f"writing {rows:,} rows")
        raw.mkdir(parents=True, exist_ok=True)
        for start in range(0, rows, _CHUNK):
            pq.write_table(samples(min(_CHUNK, rows - start), start), raw / f"{start:09d}.parquet")
        spark = session()
        lake = Lake(spark, str(root))
        ordered = in_training_order(
            spark.read.parquet(str(raw)),
            TABLE,
            about_rows=rows,
            shards=Loader().shards,
            seed=0,
            lists={name: FixedList(length) for name, length in LISTS.items()},
        )
        ref = lake.overwrite(TABLE, ordered, {})
        done.write_text("\n".join(map(readable, lake.live_files(ref))))
        spark.stop()
    return done.read_text().split("\n")


def ours(files: list[str], look: Callable[[dict[str, NDArray]], None] | None = None) -> None:
    """An epoch of shuffled tensors."""
    loader = EpochLoader(
        files, COLUMNS, Loader(), batch_size=BATCH, rank=0, world=1, seed=1, list_lengths=LISTS
    )
    for batch in loader.epoch(0):
        if look:
            real = batch[WEIGHT].numpy() > 0
            look({name: batch[name].numpy()[real] for name in COLUMNS})


def stock(files: list[str], look: Callable[[dict[str, NDArray]], None] | None = None) -> None:
    """An epoch of Petastorm's tensors, row groups in random order."""
    from petastorm import make_batch_reader
    from petastorm.pytorch import BatchedDataLoader

    urls = [f"file://{file}" for file in files]
    reader = make_batch_reader(urls, schema_fields=list(COLUMNS), num_epochs=1, seed=1)
    with BatchedDataLoader(reader, batch_size=BATCH) as loader:
        for batch in loader:
            if look:
                look({name: batch[name].numpy() for name in COLUMNS})


def _raw(
    batches: Iterable[pa.RecordBatch], look: Callable[[dict[str, NDArray]], None] | None
) -> None:
    for batch in batches:
        if look:
            arrays = {n: batch.column(n) for n in COLUMNS}
            flat = {n: a.flatten() if n in LISTS else a for n, a in arrays.items()}
            look({n: a.to_numpy() for n, a in flat.items()})


def iter_batches(files: list[str], look: Callable | None = None) -> None:
    """Arrow batches, one file after the other."""
    for file in files:
        _raw(pq.ParquetFile(file).iter_batches(BATCH, columns=list(COLUMNS)), look)


def to_batches(files: list[str], look: Callable | None = None) -> None:
    """Arrow batches of a dataset, which reads ahead."""
    _raw(ds.dataset(files).to_batches(columns=list(COLUMNS), batch_size=BATCH), look)


def totals(read: Callable, files: list[str]) -> dict[str, tuple[int, float]]:
    """Column -> (values, their sum), floats to six digits."""
    found = dict.fromkeys(COLUMNS, (0, 0.0))

    def look(arrays: dict[str, NDArray]) -> None:
        for name, values in arrays.items():
            count, total = found[name]
            total += pc.sum(pa.array(values.reshape(-1))).as_py()
            found[name] = count + values.size, total

    read(files, look)
    return {name: (count, float(f"{total:.6g}")) for name, (count, total) in found.items()}


READERS: dict[str, Callable] = {
    "ours": ours,
    "petastorm BatchedDataLoader": stock,
    "pyarrow ParquetFile.iter_batches": iter_batches,
    "pyarrow Dataset.to_batches": to_batches,
}


def read(reader: str, files: list[str]) -> None:
    """An epoch, in a process of its own."""
    warnings.filterwarnings("ignore")  # Petastorm's, of the pinned pyarrow
    READERS[reader](files)


def check(reader: str, files: list[str]) -> dict[str, tuple[int, float]]:
    """``totals``, and a warm-up."""
    warnings.filterwarnings("ignore")
    return totals(READERS[reader], files)


def main() -> None:
    """One case per peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "qarm-bench")
    arguments = parser.parse_args()
    files = written(arguments.folder, arguments.rows)
    name = f"{arguments.rows} rows of 20 scalars and 175 list values, batches of {BATCH}"
    os.environ.update(child_environment(1, Training().stall_seconds))
    mine, *peers = READERS
    with ExitStack() as stack:
        processes = {
            reader: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            for reader in READERS
        }

        def run(reader: str) -> None:
            processes[reader].submit(read, reader, files).result()

        found = {r: processes[r].submit(check, r, files).result() for r in READERS}
        for peer in peers:
            run(mine)
            pairs = interleaved(peer, lambda: run(mine), lambda p=peer: run(p), arguments.runs)
            report("loader", name, peer, *pairs, found[peer] == found[mine])


if __name__ == "__main__":
    main()
