"""Training functions that the tests launch on ranks, and small Parquet files for them."""

from __future__ import annotations

import glob
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor, nn

from qarm.config.training import Loader, Training
from qarm.errors import InputError, TrainingError
from qarm.training import collectives, gradients
from qarm.training.launch import launch
from qarm.training.loader import WEIGHT, EpochLoader
from qarm.training.loop import fit
from qarm.training.settings import FitConfig

LAYOUT = [[17, 3, 28], [9], [1, 40, 12, 5], [22, 0, 7]]
"""Rows of the row groups of four files: 144, unevenly."""
LENGTH = 3
DROPOUT_RUN = {"shards": None, "epochs": 3, "dropout": 0.3}
"""Settings of the run that is killed and resumed, and of the one that is not."""
COLUMNS = ("id", "x", "y", "word", "list")


def run(function: str, spec: Any, ranks: int, work_dir: Path, **settings: Any) -> Any:
    """Launch a function of this module on that many ranks without restarts."""
    name = f"tests.training.ranks:{function}"
    training = Training(ranks=ranks, **{"restarts": 0, **settings})
    return launch(name, spec, object, training, work_dir=str(work_dir))


def write_files(folder: Path, row_groups: Sequence[Sequence[int]]) -> list[str]:
    """One file for each inner sequence of row-group sizes; ids count up from 0."""
    generator = np.random.default_rng(5)
    files, start = [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, sizes in enumerate(row_groups):
        path = folder / f"part {number:02d}.parquet"
        writer = None
        for rows in sizes:
            ids = np.arange(start, start + rows)
            table = pa.table(
                {
                    "id": ids,
                    "x": generator.standard_normal(rows),
                    "y": (generator.random(rows) < 0.5).astype(np.float64),
                    "word": generator.integers(0, 40, rows),
                    "list": pa.array([[i, i + 1, i + 2] for i in ids], pa.list_(pa.int64())),
                    "text": pa.array([f"row {i}" for i in ids], pa.string()),
                }
            )
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table, row_group_size=max(rows, 1))
            start += rows
        assert writer is not None
        writer.close()
        files.append(f"file://{path}".replace(" ", "%20"))
    return files


class Net(nn.Module):
    """A model with a dense part, a sparse table, dropout, and a layer that gets no gradient."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 4, sparse=True, dtype=torch.float64)
        self.hidden = nn.Linear(5, 6, dtype=torch.float64)
        self.out = nn.Linear(6, 1, dtype=torch.float64)
        self.unused = nn.Linear(2, 2, dtype=torch.float64)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = torch.cat([self.words(batch["word"]), batch["x"][:, None]], dim=1)
        return self.out(self.dropout(torch.tanh(self.hidden(inputs))))[:, 0]


def point_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weighted binary cross entropy."""
    losses = nn.functional.binary_cross_entropy_with_logits(
        model(batch), batch["y"], reduction="none"
    )
    weight = batch[WEIGHT].double()
    return (losses * weight).sum(), weight.sum()


def contrastive_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """InfoNCE of each row's hidden vector and its word, negatives gathered over all ranks."""
    assert isinstance(model, Net)
    words = model.words(batch["word"])
    inputs = torch.cat([words, batch["x"][:, None]], dim=1)
    queries = nn.functional.normalize(model.hidden(inputs)[:, :4], dim=1)
    keys = collectives.gather_with_grad(nn.functional.normalize(words + batch["x"][:, None], dim=1))
    rows = len(queries)
    target = torch.arange(rows) + collectives.rank() * rows
    weight = batch[WEIGHT].double()
    losses = nn.functional.cross_entropy(queries @ keys.T / 0.3, target, reduction="none")
    return (losses * weight).sum(), weight.sum()


def make_training(spec: dict[str, Any]) -> tuple[Net, torch.optim.Optimizer, EpochLoader]:
    """Model (another start on each rank), optimiser and loader of this rank."""
    torch.manual_seed(spec.get("seed", 1) + 100 * collectives.rank())
    model = Net(spec.get("dropout", 0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    world = collectives.size()
    loader = EpochLoader(
        spec["files"],
        COLUMNS,
        Loader(shards=spec.get("shards") or world, shuffle_rows=spec.get("shuffle_rows", 30)),
        batch_size=spec["batch"] // world,
        rank=collectives.rank(),
        world=world,
        seed=3,
        list_lengths={"list": LENGTH},
    )
    return model, optimizer, loader


@contextmanager
def recorded_losses() -> Iterator[list[float]]:
    """Mean loss over all ranks of each step taken inside."""
    losses: list[float] = []
    reduce = gradients.reduce_gradients

    def recording(*arguments: Any) -> tuple[float, float]:
        loss, weight = reduce(*arguments)
        losses.append(loss)
        return loss, weight

    gradients.reduce_gradients = recording
    try:
        yield losses
    finally:
        gradients.reduce_gradients = reduce


def weights(model: nn.Module) -> list[float]:
    """All weights in one list."""
    return [float(v) for p in model.state_dict().values() for v in p.reshape(-1)]


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Fit; weights and history.

    The spec's ``kill`` maps ranks to the step (of this start of the ranks) in which they are
    killed; with ``kill_once``, a file, only if that is not there yet. All raise in step ``stop``.
    """
    model, optimizer, loader = make_training(spec)
    loss = contrastive_loss if spec.get("loss") == "contrastive" else point_loss
    kill_in = spec.get("kill", {}).get(str(collectives.rank()))
    calls: list[int] = []

    def deadly(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if kill_in == len(calls):
            once = spec.get("kill_once")
            if once is None or not os.path.exists(once):
                if once is not None:
                    Path(once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if spec.get("stop") == len(calls):
            raise TrainingError("stopped")
        calls.append(0)
        return loss(model, batch)

    def evaluate() -> dict[str, float]:
        return {"rank_mean": float(collectives.rank()), "score": spec.get("score", -1.0)}

    config = FitConfig(
        epochs=spec.get("epochs", 2),
        warmup_steps=2,
        schedule="cosine",
        checkpoint_folder=spec.get("checkpoints"),
        checkpoint_steps=spec.get("checkpoint_steps", 0),
        gradient_clip=spec.get("clip", 0.5),
        seed=11,
    )
    result = fit(model, deadly, loader, optimizer, config, evaluate)
    return {
        "weights": weights(model),
        "same": len({str(w) for w in collectives.gather_objects(weights(model))}) == 1,
        "losses": [record["train_loss"] for record in result.history],
        "rank_mean": result.history[-1]["rank_mean"],
        "rows_per_rank": result.rows_per_rank,
        "steps": loader.steps_per_epoch,
        "resumed_step": result.resumed_step,
        "ranks": collectives.size(),
    }


def check_collectives(spec: dict[str, Any]) -> dict[str, Any]:
    """Every collective; the results of rank 0."""
    collectives.init(cycle_ms=3)
    rank, size = collectives.rank(), collectives.size()
    out: dict[str, Any] = {"size": size, "local_rank": collectives.local_rank()}
    out["cycle_ms"] = os.environ.get("HOROVOD_CYCLE_TIME")
    out["sum"] = collectives.allreduce_sum(torch.tensor([rank + 1.0])).tolist()
    out["gathered"] = collectives.gather(torch.full((rank,), rank)).tolist()
    groups = [[torch.full((2,), rank + 1.0)], [torch.tensor(rank + 1.0), torch.ones(1, 2)]]
    sums, rows = collectives.exchange(groups, [torch.full((rank + 1,), rank)], "both")
    out["exchanged"] = [tensor.tolist() for tensor in (*sums, *rows)]
    out["objects"] = collectives.gather_objects({"rank": rank})
    out["broadcast"] = collectives.broadcast_object(f"from {rank}")
    out["metrics"] = collectives.reduce_metrics({"a": float(rank)}, weight=3.0 if rank else 1.0)

    half = torch.full((1,), rank + 1.5, dtype=torch.bfloat16, requires_grad=True)
    gathered = collectives.gather_with_grad(half)
    gathered.square().sum().backward()
    assert half.grad is not None
    out["bfloat16"] = [gathered.tolist(), half.grad.tolist(), str(half.grad.dtype)]

    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 + rank, betas=(0.8, 0.9))
    nn.init.constant_(model.hidden.weight, float(rank))
    if rank == 0:  # only rank 0 has optimiser state, as after loading a checkpoint
        model.hidden(torch.ones(1, 5, dtype=torch.float64)).sum().backward()
        optimizer.step()
    collectives.broadcast_model(model)
    collectives.broadcast_optimizer(optimizer)
    group = optimizer.param_groups[0]
    seen = collectives.gather_objects(
        (weights(model), group["lr"], group["betas"], sorted(optimizer.state_dict()["state"]))
    )
    out["broadcasts_equal"] = all(s == seen[0] for s in seen)
    out["has_state"] = len(seen[-1][3])

    model = Net()
    collectives.broadcast_model(model)
    if rank == size - 1:  # the other rank has no gradients at all
        model.words(torch.tensor([2, 2])).sum().backward()
        (3 * model.hidden.weight.sum()).backward()
    gradients.average_gradients(model)
    assert model.words.weight.grad is not None
    assert model.hidden.weight.grad is not None
    assert model.unused.weight.grad is not None
    out["sparse_rows"] = model.words.weight.grad.coalesce().indices()[0].tolist()
    out["sparse_value"] = float(model.words.weight.grad.coalesce().values()[0, 0])
    out["dense_value"] = float(model.hidden.weight.grad[0, 0])
    out["unused_value"] = float(model.unused.weight.grad.abs().max())
    out["threads"] = torch.get_num_threads()
    out["secret"] = collectives.gather_objects(os.environ.get("STORE_SECRET"))
    out["shown"] = [path for path in glob.glob("/proc/*/cmdline") if b"hush-hush" in _read(path)]
    out["cores"] = collectives.gather_objects(sorted(os.sched_getaffinity(0)))
    out["horovod"] = "horovod" in sys.modules
    out["gateway"] = os.environ.get("PYSPARK_GATEWAY_PORT")
    try:
        collectives.gather_with_grad(torch.zeros(rank + 1, 2))
        out["uneven"] = ""
    except Exception as error:
        out["uneven"] = str(error)
    collectives.barrier()
    return out


def infinite_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A loss that is infinite on rank 1 only."""
    loss, weight = point_loss(model, batch)
    return loss * (math.inf if collectives.rank() == 1 else 1.0), weight


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it has ended
        return b""


def stop_early(spec: dict[str, Any]) -> dict[str, Any]:
    """The metric rises on rank 0 and falls faster on the others."""
    model, optimizer, loader = make_training(spec)
    scores = [0.5, 0.6, 0.7, 0.8, 0.9] if collectives.rank() == 0 else [0.5, 0.3, 0.1, 0.0, 0.0]
    config = FitConfig(epochs=5, monitor="auc", patience=2)
    result = fit(
        model, point_loss, loader, optimizer, config, evaluate=lambda: {"auc": scores.pop(0)}
    )
    seen = (result.epochs_done, result.best_epoch, result.best_metrics["auc"])
    return {"seen": collectives.gather_objects(seen)}


def everything(spec: dict[str, Any]) -> dict[str, Any]:
    """All checks in one start of the ranks."""
    out: dict[str, Any] = {"collectives": check_collectives(spec)}
    for name in ("point", "contrastive"):
        out[name] = train({**spec, "loss": name})
    out["dropout"] = train({**spec, **DROPOUT_RUN})
    out["early"] = stop_early(spec)
    begun = {"loss": "contrastive", "checkpoints": spec["begun"], "checkpoint_steps": 4}
    try:
        stop = 5 if collectives.size() > 1 else None
        out["begun"] = train({**spec, **begun, "stop": stop})
    except TrainingError:
        out["begun"] = None
    model, optimizer, loader = make_training(spec)
    try:
        fit(model, infinite_loss, loader, optimizer, FitConfig())
        out["infinite"] = ""
    except TrainingError as error:
        out["infinite"] = collectives.gather_objects(str(error))
    orders = []
    for epoch in (0, 1, 2, 0):
        _, _, loader = make_training(spec)
        ids, sizes, padded = [], set(), 0
        for batch in loader.epoch(epoch):
            real = batch[WEIGHT] > 0
            sizes.add(tuple(batch["list"].shape))
            padded += int((~real).sum())
            ids += batch["id"][real].tolist()
        everyone = collectives.gather_objects(ids)
        steps = collectives.gather_objects(loader.steps_per_epoch)
        orders.append({"ids": everyone, "sizes": sorted(sizes), "padded": padded, "steps": steps})
    out["orders"] = orders
    return out


def fail(spec: dict[str, Any]) -> dict[str, Any]:
    """One rank raises while the other waits for it."""
    if collectives.rank() == collectives.size() - 1:
        print("a line before the end")
        logging.getLogger("qarm.training").info("a line of progress")
        if spec.get("kind") == "input":
            raise InputError("column 'x' is missing")
        unlucky = spec["numerator"] / 0
        return {"never": unlucky}
    collectives.barrier()
    return {}


def train_then_fail(spec: dict[str, Any]) -> dict[str, Any]:
    """Train, leave the result in a file, then fail as ``fail`` does."""
    result = train(spec)
    if collectives.rank() == 0:
        Path(spec["left"]).write_text(json.dumps(result))
    return fail({"kind": "input"})


def wait(spec: dict[str, Any]) -> dict[str, Any]:
    """Leave the process id in a folder, and wait."""
    collectives.barrier()
    Path(spec["pids"]).mkdir(exist_ok=True)
    Path(spec["pids"], str(os.getpid())).touch()
    time.sleep(120)
    return {}


def stall(spec: dict[str, Any]) -> dict[str, Any]:
    """One rank does not join the second collective."""
    collectives.barrier()
    if collectives.rank() == spec["rank"]:
        time.sleep(300)
    collectives.allreduce_sum(torch.ones(2), name="the.second")
    return {}


def stop(spec: dict[str, Any]) -> dict[str, Any]:
    """One rank is stopped altogether, threads and all."""
    model = Net()
    gradients.average_gradients(model)
    if collectives.rank() == spec["rank"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    gradients.average_gradients(model)  # the second
    return {}
