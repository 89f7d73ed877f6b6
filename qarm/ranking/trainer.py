"""One rank of train-ranker: every variant, seed and grid point; the best of each scores.

Every variant gets the same trials: each id_dropout of the grid, at most the same epochs. Epoch and
grid point are chosen by the AUC of the first head on the validation part; test is scored once, by
the chosen model. One launch runs them all, because starting ranks takes longer than a small
training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from qarm.codes.codebook import Codebook
from qarm.config import Ranker
from qarm.errors import TrainingError
from qarm.lake import files
from qarm.ranking import code_tables
from qarm.ranking.auc import AucCounter
from qarm.ranking.inputs import SAMPLE_COLUMNS, Lookup
from qarm.ranking.item_table import ItemTable, open_table
from qarm.ranking.model import CONTENT, ModelSpec, RankerModel, loss_sum
from qarm.ranking.optimizer import LazyAdamW
from qarm.ranking.ranker_task import RankerResult, RankerTask, SavedModel, Trial
from qarm.training import collectives, loop
from qarm.training.loader import WEIGHT, EpochLoader
from qarm.training.records import FitResult
from qarm.training.settings import FitConfig
from qarm.training.state import separate

logger = logging.getLogger(__name__)

_HISTORY = ("history_item_idx", "history_ts")
_PATIENCE = 1
"""Epochs without a better validation AUC before training stops."""
_SCORED_BATCHES = 4
"""Scoring needs no gradients, so that its batches can be this many times larger."""
_CYCLE_MS = 5
"""See ``collectives.init``: gradients are summed once per step, which takes 50 ms and more."""


def train(task: RankerTask) -> RankerResult:
    """Train all variants, seeds and grid points, and score valid and test with the best of each.

    Raises:
        InputError: vectors or codes that cannot be used.
        TrainingError: the validation part cannot choose an epoch, or the loss is not finite.
    """
    collectives.init(cycle_ms=_CYCLE_MS)
    if collectives.rank() == 0:  # of an earlier start, perhaps of more ranks
        files.remove_tree(task.scores)
    collectives.barrier()
    with open_table(task.models, task.items) as table:
        return _train(task, Work(task, table))


def _train(task: RankerTask, work: Work) -> RankerResult:
    trials: list[Trial] = []
    models: dict[str, SavedModel] = {}
    rows_per_rank: list[int] = []
    for seed in task.ranker.seeds:
        for variant in task.ranker.variants:
            best: tuple[RankerModel, Trial] | None = None
            for id_dropout in task.ranker.id_dropout:
                model, trial, fitted = work.try_out(variant, seed, id_dropout)
                trials.append(trial)
                rows_per_rank = fitted.rows_per_rank
                if best is None or trial.auc > best[1].auc:
                    best = (model, trial)
            assert best is not None
            model, trial = best
            trial.chosen = True
            for part in ("valid", "test"):
                work.score(model, trial, part)
            models[f"{variant}/{seed}"] = work.save(model, trial)
    collectives.barrier()
    return RankerResult(trials=trials, models=models, rows_per_rank=rows_per_rank)


@dataclass(frozen=True)
class _Codes:
    """What code tables are made of; empty where no variant uses codes."""

    book: Codebook | None
    rows: code_tables.RqRows | None

    def tables(self, config: Ranker, lookup: Lookup, variant: str, seed: int) -> dict[str, Any]:
        """Starts of the variant's code tables."""
        start = code_tables.TableStart(config.code_start, seed)
        found = {}
        if self.book is not None and self.rows is not None and "rq" in CONTENT[variant]:
            found["rq"] = code_tables.rq_start(
                lookup.table, lookup.rq_rows, self.rows.count, self.book.levels, start
            )
        if self.book is not None and "vq" in CONTENT[variant]:
            found["vq"] = code_tables.vq_start(self.book.anchors, start)
        return {name: torch.from_numpy(weight) for name, weight in found.items()}


class Work:
    """What all trials share.

    Args:
        task: all of them.
        table: the arrays of ``task.items``.
    """

    def __init__(self, task: RankerTask, table: ItemTable) -> None:
        self.task, self.config = task, task.ranker
        self.rank, self.world = collectives.rank(), collectives.size()
        self.codes = self._read_codes(table)
        rq_rows = np.zeros((table.rows, 0), np.int32)
        if self.codes.rows is not None:
            rq_rows = self.codes.rows.rows(table.rq)
        self.lookup = Lookup(
            table=table,
            rq_rows=rq_rows,
            item_buckets=min(self.config.max_table_rows, table.rows),
            user_buckets=min(self.config.max_table_rows, task.user_rows),
        )
        logger.info("rank %d of %d: %d items mapped", self.rank, self.world, table.rows)

    def _read_codes(self, table: ItemTable) -> _Codes:
        uses = {use for variant in self.config.variants for use in CONTENT[variant]}
        if not uses & {"rq", "vq"}:
            return _Codes(None, None)
        book = None
        if self.task.codebook is not None:
            with files.open_file(self.task.codebook) as file:
                book = Codebook.from_bytes(file.read())
        book = code_tables.check(table, book, uses, self.config.code_start)
        rows = None
        if "rq" in uses:
            rows = code_tables.RqRows.of(table, book.sizes, self.config.max_table_rows)
        return _Codes(book, rows)

    def loader(self, part: str, *, seed: int | None = None) -> EpochLoader:
        """Batches of a part; shuffled if a seed is given."""
        settings = self.task.loader
        if seed is None:  # the order of rows that are only scored does not matter
            rows = _SCORED_BATCHES * self.config.batch_size
            settings = settings.model_copy(update={"shards": self.world})
        else:
            shards = settings.shards
            rows = max(1, self.config.batch_size // shards) * (shards // self.world)
        labels = [f"label_{name}" for name in self.task.labels]
        return EpochLoader(
            self.task.files[part],
            ["sample_id", *SAMPLE_COLUMNS, *labels],
            settings,
            batch_size=rows,
            rank=self.rank,
            world=self.world,
            seed=seed,
            list_lengths=dict.fromkeys(_HISTORY, self.task.history_length),
        )

    def targets(self, batch: loop.Batch) -> torch.Tensor:
        """(B, heads)."""
        return torch.stack([batch[f"label_{name}"] for name in self.task.labels], dim=1)

    def try_out(
        self, variant: str, seed: int, id_dropout: float
    ) -> tuple[RankerModel, Trial, FitResult]:
        """One training; the model at its best epoch, and its records."""
        model = self._model(variant, seed, id_dropout)
        train, valid = self.loader("train", seed=seed), self.loader("valid")

        def loss(model: Any, batch: loop.Batch) -> tuple[torch.Tensor, torch.Tensor]:
            logits = model(self.lookup.inputs(batch))
            return loss_sum(logits, self.targets(batch), batch["weight"] * batch[WEIGHT])

        def evaluate() -> dict[str, float]:
            counter = AucCounter()
            for batch in valid.epoch(0):
                logits = model(self.lookup.inputs(batch))
                label = batch[f"label_{self.task.labels[0]}"]
                counter.add(logits[:, 0], label, batch["weight"] * batch[WEIGHT])
            return {"auc": counter.value()}

        fitted = loop.fit(
            model,
            loss,
            train,
            LazyAdamW(model.parameter_groups(self.config)),
            self._fit_config(seed, f"{variant}-{seed}-{id_dropout:g}"),
            evaluate=evaluate,
        )
        auc = fitted.best_metrics["auc"]
        if math.isnan(auc):
            raise TrainingError(
                f"the validation part has only one label of {self.task.labels[0]!r}, so that no "
                "epoch can be chosen; give [split] a larger valid share, or raise "
                "samples.eval_positives"
            )
        trial = Trial(
            variant=variant,
            seed=seed,
            id_dropout=id_dropout,
            auc=auc,
            epoch=fitted.best_epoch + 1,
            epochs=[record["auc"] for record in fitted.history],
            seconds=round(fitted.seconds, 2),
            rows_per_second=round(fitted.history[-1]["rows_per_second"]),
            input_wait_share=round(fitted.input_wait_share, 3),
        )
        if self.rank == 0:
            logger.info(
                "%s, seed %d, id dropout %g: valid AUC %.4f at epoch %d of %d, %d rows/s",
                *(variant, seed, id_dropout, auc),
                *(trial.epoch, len(fitted.history), trial.rows_per_second),
            )
        return model, trial, fitted

    def _fit_config(self, seed: int, name: str) -> FitConfig:
        """The run's configuration for one trial, which has folders of its own."""
        config, run = self.config, self.task.fit
        return replace(
            run,
            epochs=config.epochs,
            warmup_steps=config.optimizer.warmup_steps,
            schedule=config.optimizer.schedule,
            gradient_clip=config.optimizer.gradient_clip,
            monitor="auc",
            patience=_PATIENCE,
            checkpoint_folder=run.checkpoint_folder and files.join(run.checkpoint_folder, name),
            events_folder=run.events_folder and files.join(run.events_folder, name),
            seed=seed,
        )

    def _model(self, variant: str, seed: int, id_dropout: float) -> RankerModel:
        torch.manual_seed(seed)
        return RankerModel(
            self.config,
            self.model_spec(variant, id_dropout),
            self.codes.tables(self.config, self.lookup, variant, seed),
            self.task.dense_mean,
            self.task.dense_std,
        )

    def model_spec(self, variant: str, id_dropout: float) -> ModelSpec:
        """Shapes of a model."""
        return ModelSpec(
            variant=variant,
            id_dropout=id_dropout,
            heads=len(self.task.labels),
            item_rows=self.lookup.item_buckets,
            user_rows=self.lookup.user_buckets,
            dimensions=self._dimensions(),
        )

    def _dimensions(self) -> int:
        width = self.lookup.table.vector.shape[1]
        return width or (self.codes.book.dimensions if self.codes.book else 0)

    def score(self, model: RankerModel, trial: Trial, part: str) -> None:
        """Write this rank's scores of a part: (sample_id, score of each head)."""
        import pyarrow as pa
        from pyarrow import parquet

        heads = [f"score_{name}" for name in self.task.labels]
        schema = pa.schema(
            [("sample_id", pa.int64()), ("variant", pa.string()), ("seed", pa.int32())]
            + [(name, pa.float32()) for name in heads]
        )
        name = f"{trial.variant}-{trial.seed}-{part}-{self.rank}.parquet"
        model.eval()
        with (
            files.open_file(files.join(self.task.scores, name), "wb") as sink,
            parquet.ParquetWriter(sink, schema) as writer,
            torch.no_grad(),
        ):
            for batch in self.loader(part).epoch(0):
                scores = torch.sigmoid(model(self.lookup.inputs(batch)))
                real = batch[WEIGHT] > 0
                rows = int(real.sum())
                columns = [
                    pa.array(batch["sample_id"][real].numpy()),
                    pa.array([trial.variant] * rows, pa.string()),
                    pa.array(np.full(rows, trial.seed, np.int32)),
                    *(pa.array(column.contiguous().numpy()) for column in scores[real].unbind(1)),
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))

    def save(self, model: RankerModel, trial: Trial) -> SavedModel:
        """Write the model as safetensors beside a manifest; rank 0 writes."""
        from safetensors.torch import save as to_bytes

        folder = files.join(self.task.models, f"{trial.variant}-{trial.seed}")
        tensors = separate(model.state_dict())
        if self.codes.rows is not None and "rq" in CONTENT[trial.variant]:
            # Needed to find the rows of items that are added later.
            for level, keys in enumerate(self.codes.rows.keys):
                tensors[f"rq_prefixes.{level}"] = torch.from_numpy(keys)
        content = to_bytes(tensors)
        digest = hashlib.sha256(content).hexdigest()
        if self.rank == 0:
            manifest = {
                "model": asdict(self.model_spec(trial.variant, trial.id_dropout)),
                "ranker": self.config.model_dump(mode="json"),
                "labels": self.task.labels,
                "history_length": self.task.history_length,
                "encoder_version": self.task.items.encoder_version,
                "codebook_id": self.task.items.codebook_id,
                "rq_sizes": list(self.codes.rows.sizes) if self.codes.rows else [],
                "trial": trial.repeatable(),
                "sha256": digest,
            }
            files.write_bytes(files.join(folder, "model.safetensors"), content)
            files.write_text(files.join(folder, "manifest.json"), json.dumps(manifest, indent=1))
        return SavedModel(folder, digest)
