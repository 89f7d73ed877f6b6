"""The ranker on two ranks and two cores against one rank on one core, and the wait for input.

    .venv/bin/python benchmarks/ranks.py [--runs 5] [--rows 400000] [--variant vq_rq]

One torch thread a rank; the one rank and its reader are bound to one core. The first epoch warms
up, the second is timed, by the loop's own clock; stderr tells the processor time too, which other
work on the machine does not change much.

First case: both train the same steps of the same rows (two canonical shards, a global batch of
4,096, of which each of two ranks has half). Second: two ranks with 4,096 rows each against one rank
with 4,096, as more ranks are used to take larger steps. Third: the share of a step of the first
case that a rank waits for input: ``ours_s`` is the wait, ``peer_s`` the whole epoch, so that a
ratio above 10 is a share below 10 %. Fourth, the most that the first case can come to on this
machine: two trainings at once that exchange nothing, each with half of the files, half of the batch
and a core of its own. ``equal``: the same loss, to 1e-4; of the second and the fourth case, whose
steps are others, the losses are within a hundredth.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from timing import report, say

from qarm.codes.codebook import Codebook
from qarm.config import Ranker
from qarm.config.training import Loader
from qarm.ranking.dense import DENSE
from qarm.training.launch import launch

BATCH, LENGTH, USERS, DIMENSIONS, VALID = 4096, 50, 50_000, 64, 20_000
FILES = 16
CONFIG = {"epochs": 2, "batch_size": BATCH, "dropout": 0.0}


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


def world(folder: Path, rows: int, items: int, variant: str) -> dict[str, Any]:
    """Files of samples and codes, and the ranker's spec for them."""
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
    return {
        "ranker": Ranker.model_validate({**CONFIG, "variants": [variant]}).model_dump(mode="json"),
        "labels": ["positive"],
        "files": {
            part: [
                samples(folder / f"{part}-{each}-{items}-{n}.parquet", each, items, n)
                for n in range(files)
            ]
            for part, (each, files) in parts.items()
        },
        "history_length": LENGTH,
        "user_rows": USERS,
        "dense": {"mean": [0.0] * len(DENSE), "std": [1.0] * len(DENSE)},
        "items": {
            "folder": str(folder / f"items-{items}"),
            "embeddings": [],
            "encoder_version": "",
            "codes": [str(folder / f"codes-{items}.parquet")],
            "codebook_id": book.codebook_id,
            "rows": items,
        },
        "codebook": str(folder / "book"),
        "loader": Loader(shards=2).model_dump(mode="json"),
        "fit": {"resume": False, "keep": 1},
        "events": str(folder / "events"),
    }


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """On each rank: one trial; seconds, wait and loss of the second epoch."""
    import torch

    from qarm.ranking import trainer
    from qarm.training import collectives, loop

    torch.set_num_threads(1)
    # Not by ``collectives``: the trainer is the first to use it, and says how Horovod should run.
    if "HOROVOD_SIZE" not in os.environ:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[spec.get("core", 0)]})
    histories = []
    fit = loop.fit

    def recording(*arguments: Any, **options: Any) -> Any:
        result = fit(*arguments, **options)
        histories.append(result.history)
        return result

    started = time.process_time()

    loop.fit = recording
    trainer._Work(spec).try_out(spec["ranker"]["variants"][0], 0, 0.0)
    last = histories[0][-1]
    seconds = last["rows"] / last["rows_per_second"]
    return {
        "seconds": seconds,
        "waits": collectives.gather_objects(last["input_wait_share"] * seconds),
        "loss": last["train_loss"],
        "cpu": collectives.gather_objects(time.process_time() - started),
    }


def run_apart(spec: dict[str, Any], folder: str) -> dict[str, Any]:
    """Two trainings of one rank at once, each with half of the files, as ``train`` tells of one."""

    def half(number: int) -> dict[str, Any]:
        own = {
            **spec,
            "core": number,
            "checkpoints": f"{folder}/checkpoints-{number}",
            "events": f"{folder}/events-{number}",
            "files": {**spec["files"], "train": spec["files"]["train"][number::2]},
        }
        return launch("ranks:train", own, ranks=1, work_dir=f"{folder}/apart-{number}")

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(half, range(2)))
    return {
        "seconds": max(found["seconds"] for found in both),
        "waits": [wait for found in both for wait in found["waits"]],
        "loss": float(np.mean([found["loss"] for found in both])),
        "cpu": [cpu for found in both for cpu in found["cpu"]],
    }


def main() -> None:
    """Four cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--variant", default="vq_rq")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "qarm-ranks")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    spec = world(given.folder, given.rows, given.items, given.variant)
    #: ranks, batch of all of them; of "apart", of each training
    ways = {
        "halves": (2, BATCH),
        "wholes": (2, 2 * BATCH),
        "apart": (1, BATCH // 2),
        "one": (1, BATCH),
    }
    seen: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for run in range(given.runs):
        for way, (ranks, batch) in ways.items():
            spec["ranker"]["batch_size"] = batch
            with tempfile.TemporaryDirectory() as folder:
                spec["checkpoints"] = f"{folder}/checkpoints"
                found = (
                    run_apart(spec, folder)
                    if way == "apart"
                    else launch("ranks:train", spec, ranks=ranks, work_dir=f"{folder}/ranks")
                )
            seen[way].append(found)
            speed = given.rows / found["seconds"]
            waits, cpu = ([f"{s:.2f}" for s in found[name]] for name in ("waits", "cpu"))
            say(
                f"run {run + 1}, {way}, {ranks} rank(s), batch {batch}: {speed:,.0f} rows/s, "
                f"waited {waits} s, cpu {cpu}"
            )
    halves, wholes, apart, one = ([found["seconds"] for found in seen[way]] for way in ways)
    waits = [max(found["waits"]) for found in seen["halves"]]
    losses = {way: np.array([found["loss"] for found in seen[way]]) for way in ways}
    equal = bool(np.allclose(losses["halves"], losses["one"], rtol=0, atol=1e-4))
    close, near = (
        bool(np.allclose(losses[way], losses["one"], rtol=0, atol=1e-2))
        for way in ("wholes", "apart")
    )
    name = f"ranker {given.variant}, {given.rows} rows, {given.items} items"
    report("ranks", f"{name}: 2 ranks, batch {BATCH}", "1 rank, 1 core", halves, one, equal)
    report("ranks", f"{name}: 2 ranks, batch {BATCH} each", "1 rank, 1 core", wholes, one, close)
    report("ranks", f"{name}: 2 trainings, nothing exchanged", "1 rank, 1 core", apart, one, near)
    report("ranks", f"{name}: wait for input", "whole epoch", waits, halves, equal)


if __name__ == "__main__":
    main()
