"""A training function that the tests launch on ranks, and small tables of samples for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from qarm.config import Ranker
from qarm.config.training import Loader
from qarm.ranking import model, trainer
from qarm.ranking.dense import DENSE
from qarm.ranking.item_table import ItemSource, open_table
from qarm.ranking.ranker_task import RankerTask
from qarm.training import loop
from qarm.training.settings import FitConfig
from tests.lakes.ranking import CODEBOOK
from tests.training.ranks import recorded_losses

SAMPLES, ITEMS, USERS, LENGTH = 660, 40, 30, 6


def write_world(folder: Path) -> RankerTask:
    """Samples, codes and codebook as files, and a task for them."""
    folder.mkdir(parents=True)
    (folder / "book").write_bytes(CODEBOOK.to_bytes())
    vectors = np.random.default_rng(4).standard_normal((ITEMS, 8)).astype(np.float32)
    codes = {
        "item_idx": np.arange(ITEMS),
        "rq": pa.array(CODEBOOK.rq(vectors)[0].tolist(), pa.list_(pa.int32())),
        "vq": pa.array(CODEBOOK.vq(vectors, 3).tolist(), pa.list_(pa.int32())),
        "codebook_id": [CODEBOOK.codebook_id] * ITEMS,
    }
    parquet.write_table(pa.table(codes), folder / "codes.parquet")
    config = {
        "variants": ["vq_rq"],
        "epochs": 1,
        "batch_size": 32,
        "dropout": 0.0,
        "hidden": [16],
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 3, "gradient_clip": 1.0},
    }
    return RankerTask(
        ranker=Ranker.model_validate(config),
        loader=Loader(shards=2, workers=1),
        fit=FitConfig(keep=1, checkpoint_folder=str(folder / "checkpoints")),
        labels=["positive", "top"],
        files={
            part: [_write_samples(folder / f"{part}-{n}.parquet", rows // 2, n) for n in range(2)]
            for part, rows in (("train", SAMPLES), ("valid", 60))
        },
        history_length=LENGTH,
        user_rows=USERS,
        dense_mean=[0.5] * len(DENSE),
        dense_std=[2.0] * len(DENSE),
        items=ItemSource(
            rows=ITEMS,
            embeddings=[],
            encoder_version="",
            codes=[str(folder / "codes.parquet")],
            codebook_id=CODEBOOK.codebook_id,
        ),
        codebook=str(folder / "book"),
        scores=str(folder / "scores"),
        models=str(folder / "models"),
    )


def _write_samples(path: Path, rows: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    length = rng.integers(0, LENGTH + 1, rows)
    history = rng.integers(0, ITEMS, (rows, LENGTH))
    history[np.arange(LENGTH) < LENGTH - length[:, None]] = -1
    columns = {
        "sample_id": np.arange(rows),
        "user_idx": rng.integers(0, USERS, rows),
        "item_idx": rng.integers(0, ITEMS, rows),
        "ts": np.full(rows, 10_000_000),
        "weight": rng.random(rows).astype(np.float32),
        "user_count": rng.integers(0, 9, rows).astype(np.float32),
        "user_rate": rng.random(rows).astype(np.float32),
        "item_count": rng.integers(0, 9, rows).astype(np.float32),
        "item_rate": rng.random(rows).astype(np.float32),
        "history_length": length.astype(np.int32),
        "history_item_idx": pa.array(history.tolist(), pa.list_(pa.int64())),
        "history_ts": pa.array(
            rng.integers(0, 10_000_000, history.shape).tolist(), pa.list_(pa.int64())
        ),
    }
    for label in ("positive", "top"):
        columns[f"label_{label}"] = (rng.random(rows) < 0.4).astype(np.float32)
    parquet.write_table(pa.table(columns), path, row_group_size=50)
    return str(path)


@dataclass(frozen=True)
class Trainings:
    """Trainings one after the other, in one start of the ranks."""

    exact: list[RankerTask]
    """In float64."""
    fast: list[RankerTask]
    """In float32."""


@dataclass(frozen=True)
class Trained:
    """One of them."""

    losses: list[float]
    """Of each step."""
    auc: float
    rows_per_rank: list[int]
    sparse_tables: int


class _Exact(trainer.Work):
    """The same in float64."""

    def _model(self, *arguments: Any) -> model.RankerModel:
        return super()._model(*arguments).double()

    def targets(self, batch: loop.Batch) -> torch.Tensor:
        return super().targets(batch).double()


def train(task: RankerTask, kind: type[trainer.Work]) -> Trained:
    """One trial of the trainer, with sparse gradients of all tables."""
    model.SPARSE_ROWS = 4
    with open_table(task.models, task.items) as table, recorded_losses() as losses:
        trained, trial, fitted = kind(task, table).try_out("vq_rq", 0, 0.0)
    tables = [
        m for m in trained.modules() if isinstance(m, torch.nn.Embedding | torch.nn.EmbeddingBag)
    ]
    return Trained(losses, trial.auc, fitted.rows_per_rank, sum(table.sparse for table in tables))


def train_each(tasks: Trainings) -> list[Trained]:
    """The exact ones first."""
    exact = [train(task, _Exact) for task in tasks.exact]
    return exact + [train(task, trainer.Work) for task in tasks.fast]
