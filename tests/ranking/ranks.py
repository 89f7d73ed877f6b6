"""A training function that the tests launch on ranks, and small tables of samples for it."""

from __future__ import annotations

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
from qarm.training import loop
from tests.lakes.ranking import CODEBOOK
from tests.training.ranks import recorded_losses

SAMPLES, ITEMS, USERS, LENGTH = 660, 40, 30, 6


def write_world(folder: Path) -> dict[str, Any]:
    """Samples, codes and codebook as files, and the trainer's spec for them."""
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
    return {
        "ranker": Ranker.model_validate(config).model_dump(mode="json"),
        "labels": ["positive", "top"],
        "files": {
            part: [_write_samples(folder / f"{part}-{n}.parquet", rows // 2, n) for n in range(2)]
            for part, rows in (("train", SAMPLES), ("valid", 60))
        },
        "history_length": LENGTH,
        "user_rows": USERS,
        "dense": {"mean": [0.5] * len(DENSE), "std": [2.0] * len(DENSE)},
        "items": {
            "folder": str(folder / "items"),
            "embeddings": [],
            "encoder_version": "",
            "codes": [str(folder / "codes.parquet")],
            "codebook_id": CODEBOOK.codebook_id,
            "rows": ITEMS,
        },
        "codebook": str(folder / "book"),
        "loader": Loader(shards=2, workers=1).model_dump(mode="json"),
        "fit": {"keep": 1},
        "checkpoints": str(folder / "checkpoints"),
        "events": str(folder / "events"),
    }


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


class _Exact(trainer._Work):
    """The same in float64."""

    def _model(self, *arguments: Any) -> model.RankerModel:
        return super()._model(*arguments).double()

    def targets(self, batch: loop.Batch) -> torch.Tensor:
        return super().targets(batch).double()


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """One trial of the trainer, with sparse gradients of all tables; the loss of each step."""
    model.SPARSE_ROWS = 4
    work = (_Exact if spec["exact"] else trainer._Work)(spec["train"])
    with recorded_losses() as losses:
        trained, trial = work.try_out("vq_rq", 0, 0.0)
    tables = [
        m for m in trained.modules() if isinstance(m, torch.nn.Embedding | torch.nn.EmbeddingBag)
    ]
    return {
        "losses": losses,
        "auc": trial["auc"],
        "rows_per_rank": trial["rows_per_rank"],
        "sparse_tables": sum(table.sparse for table in tables),
    }


def train_each(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``train`` one after the other, in one start of the ranks."""
    return [train(spec) for spec in specs]
