"""Two ranks of the ranker by Horovod against two trainings that exchange nothing.

    .venv/bin/python benchmarks/ranks.py [--runs 5] [--rows 400000] [--variant vq_rq]

Each rank has a batch of 4,096, one torch thread and one core. The peer is two trainings of one rank
that start together, each with half of the files, the same batch and a core of its own: the most
that two ranks can reach on the same machine at the same time. ``ratio`` is the rows per second of
the two ranks over those of the two trainings; the bar is .85. Both train for two epochs, and the
loop's clock times the second. Runs alternate.

``equal``: both read every row, and their losses differ by at most a hundredth (their steps differ,
since two ranks take steps of 8,192 rows).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from timing import report, say

from qarm.codes.codebook import Codebook
from qarm.config import Ranker
from qarm.config.training import Loader, Training
from qarm.ranking.dense import DENSE
from qarm.ranking.item_table import ItemSource, open_table
from qarm.ranking.ranker_task import RankerTask
from qarm.training.launch import launch
from qarm.training.settings import FitConfig

BATCH, LENGTH, USERS, DIMENSIONS, VALID = 4096, 50, 50_000, 64, 20_000
FILES = 16


def samples(path: Path, rows: int, items: int, seed: int) -> str:
    """Samples whose items are Zipf (weight 1 / place), with histories of all lengths."""
    if path.exists():
        return str(path)
    rng = np.random.default_rng(seed)
    ends = np.cumsum(1 / np.arange(1, items + 1))

    def drawn(shape: tuple[int, ...]) -> np.ndarray:
        return np.searchsorted(ends, rng.random(shape) * ends[-1]).clip(max=items - 1)

    length = rng.integers(0, LENGTH + 1, rows)
    history = drawn((rows, LENGTH))
    history[np.arange(LENGTH) < LENGTH - length[:, None]] = -1
    offsets = pa.array(np.arange(0, rows * LENGTH + 1, LENGTH), pa.int32())
    times = np.sort(rng.integers(0, 10**7, (rows, LENGTH)), axis=1)
    columns: dict[str, Any] = {
        "sample_id": np.arange(rows),
        "user_idx": rng.integers(0, USERS, rows),
        "item_idx": drawn((rows,)),
        "ts": np.full(rows, 10**7),
        "weight": np.ones(rows, np.float32),
        "user_count": rng.integers(0, 99, rows).astype(np.float32),
        "user_rate": rng.random(rows, np.float32),
        "item_count": rng.integers(0, 99, rows).astype(np.float32),
        "item_rate": rng.random(rows, np.float32),
        "history_length": length.astype(np.int32),
        "history_item_idx": pa.ListArray.from_arrays(offsets, history.reshape(-1)),
        "history_ts": pa.ListArray.from_arrays(offsets, times.reshape(-1)),
        "label_positive": (rng.random(rows) < 0.3).astype(np.float32),
    }
    parquet.write_table(pa.table(columns), path, row_group_size=8192)
    return str(path)


def make_task(folder: Path, rows: int, items: int, variant: str) -> RankerTask:
    """Files of samples and codes, and a training on them."""
    rng = np.random.default_rng(0)
    book = Codebook(
        levels=tuple(rng.standard_normal((256, DIMENSIONS)).astype(np.float32) for _ in range(3)),
        anchors=rng.standard_normal((1024, DIMENSIONS)).astype(np.float32),
        anchor_items=np.arange(1024),
        encoder_version="e",
    )
    (folder / "book").write_bytes(book.to_bytes())
    codes = {
        "item_idx": np.arange(items),
        "rq": pa.array(rng.integers(0, 256, (items, 3)).tolist(), pa.list_(pa.int32())),
        "vq": pa.array(rng.integers(0, 1024, (items, 25)).tolist(), pa.list_(pa.int32())),
        "codebook_id": [book.codebook_id] * items,
    }
    parquet.write_table(pa.table(codes), folder / f"codes-{items}.parquet")
    parts = {"train": (rows // FILES, FILES), "valid": (VALID // 2, 2)}
    return RankerTask(
        ranker=Ranker(variants=[variant], epochs=2, dropout=0.0),
        loader=Loader(shards=2),
        fit=FitConfig(keep=1),
        labels=["positive"],
        files={
            part: [
                samples(folder / f"{part}-{each}-{items}-{n}.parquet", each, items, n)
                for n in range(files)
            ]
            for part, (each, files) in parts.items()
        },
        history_length=LENGTH,
        user_rows=USERS,
        dense_mean=[0.0] * len(DENSE),
        dense_std=[1.0] * len(DENSE),
        items=ItemSource(
            rows=items,
            embeddings=[],
            encoder_version="",
            codes=[str(folder / f"codes-{items}.parquet")],
            codebook_id=book.codebook_id,
        ),
        codebook=str(folder / "book"),
        scores="",
        models="",
    )


@dataclass(frozen=True)
class Start:
    """A training, and the core that it is bound to if it has one rank."""

    task: RankerTask
    core: int = 0


@dataclass(frozen=True)
class Timing:
    """The second epoch."""

    seconds: float
    rows: float
    loss: float
    waits: list[float]
    """Seconds that each rank waited for input."""


def train(start: Start) -> Timing:
    """On each rank: one trial."""
    import torch

    from qarm.ranking import trainer
    from qarm.training import collectives

    torch.set_num_threads(1)
    # ``collectives`` is not asked: the trainer sets Horovod's options on its first use.
    if "HOROVOD_SIZE" not in os.environ:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[start.core]})
    collectives.init(cycle_ms=trainer._CYCLE_MS)
    with open_table(start.task.models, start.task.items) as table:
        work = trainer.Work(start.task, table)
        _, _, fitted = work.try_out(start.task.ranker.variants[0], 0, 0.0)
    last = fitted.history[-1]
    seconds = last["rows"] / last["rows_per_second"]
    waits = collectives.gather_objects(last["input_wait_share"] * seconds)
    return Timing(seconds, last["rows"], last["train_loss"], waits)


def run(task: RankerTask, ranks: int, folder: str, core: int = 0) -> Timing:
    """One training in a folder of its own; each rank has a batch of ``BATCH``."""
    ranker = task.ranker.model_copy(update={"batch_size": ranks * BATCH})
    fit = replace(
        task.fit, checkpoint_folder=f"{folder}/checkpoints", events_folder=f"{folder}/events"
    )
    own = replace(task, ranker=ranker, fit=fit, models=f"{folder}/models")
    training = Training(ranks=ranks, restarts=0)
    return launch("ranks:train", Start(own, core), Timing, training, work_dir=f"{folder}/ranks")


def run_apart(task: RankerTask, folder: str) -> Timing:
    """Two trainings of one rank at once, each with half of the files."""

    def half(number: int) -> Timing:
        files = {**task.files, "train": task.files["train"][number::2]}
        return run(replace(task, files=files), 1, f"{folder}/{number}", core=number)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(half, range(2)))
    return Timing(
        seconds=max(timing.seconds for timing in both),
        rows=sum(timing.rows for timing in both),
        loss=float(np.mean([timing.loss for timing in both])),
        waits=[wait for timing in both for wait in timing.waits],
    )


def main() -> None:
    """One case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--variant", default="vq_rq")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "qarm-ranks")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    task = make_task(given.folder, given.rows, given.items, given.variant)
    ways: dict[str, Callable[[str], Timing]] = {
        "two ranks": lambda folder: run(task, 2, folder),
        "two trainings": lambda folder: run_apart(task, folder),
    }
    timings: dict[str, list[Timing]] = {way: [] for way in ways}
    for number in range(given.runs):
        for way, once in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                timing = once(folder)
            timings[way].append(timing)
            waits = [f"{seconds:.2f}" for seconds in timing.waits]
            say(
                f"run {number + 1}, {way}: {timing.rows / timing.seconds:,.0f} rows/s, "
                f"{timing.seconds:.2f} s, of it waiting for input {waits} s, loss {timing.loss:.4f}"
            )
    ours, peer = timings.values()
    rows = FILES * (given.rows // FILES)
    equal = all(a.rows == b.rows == rows for a, b in zip(ours, peer, strict=True)) and bool(
        np.allclose([t.loss for t in ours], [t.loss for t in peer], rtol=0, atol=1e-2)
    )
    report(
        "ranks",
        f"ranker {given.variant}, {rows} rows, {given.items} items, batch {BATCH} per rank",
        "two trainings that exchange nothing",
        [timing.seconds for timing in ours],
        [timing.seconds for timing in peer],
        equal,
    )


if __name__ == "__main__":
    main()
