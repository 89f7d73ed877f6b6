"""Training of the item encoder on one rank; ``qarm.training.launch`` starts it on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qarm.alignment.batches import (
    COLUMNS,
    AlignmentModel,
    encode_pairs,
    pair_batch,
    read_pairs,
)
from qarm.alignment.encoder_task import EncoderResult, EncoderTask
from qarm.alignment.held_out import METRIC, HeldOutPairs
from qarm.alignment.item_store import ItemStore, open_store
from qarm.alignment.known_pairs import KnownPairs
from qarm.alignment.loss import Temperature, info_nce
from qarm.config.alignment import TEMPERATURE_MAX, Alignment
from qarm.encoders import artifact
from qarm.encoders.fusion import ItemEncoder
from qarm.training import collectives
from qarm.training.loader import EpochLoader
from qarm.training.loop import Batch, fit
from qarm.training.settings import FitConfig

#: Items from whose features the towers are initialised.
_VALID_PAIRS = 20_000
"""Maximum number of held-out pairs on which each epoch is evaluated."""
_VALID_CANDIDATES = 200_000
"""Maximum number of items that are ranked for each held-out pair."""
_START_ITEMS = 20_000


def train(task: EncoderTask) -> EncoderResult:
    """Train the encoder, and write it on rank 0.

    Raises:
        InputError: features of another width than the task says.
        TrainingError: the loss is not finite, or a checkpoint is of another configuration.
    """
    torch.manual_seed(task.alignment.seed)
    with open_store(task.artifact_uri, task.items) as store:
        return _train(task, store)


def _train(task: EncoderTask, store: ItemStore) -> EncoderResult:
    alignment = task.alignment
    encoder = ItemEncoder(
        task.encoder,
        task.items.feature_dims,
        attributes=task.items.buckets > 0,
        finetune=alignment.finetune,
    )
    start_at_principal_axes(encoder, store, alignment.seed)
    model = AlignmentModel(
        encoder,
        Temperature(alignment.temperature, alignment.temperature_min, TEMPERATURE_MAX),
    ).to(_device())
    collectives.broadcast_model(model)  # also for the metrics before the first epoch
    held_out = HeldOutPairs(task.valid_files, store, _VALID_PAIRS, _VALID_CANDIDATES)
    start = held_out.recall(encoder)
    result = fit(
        model,
        _loss_function(
            store, KnownPairs(read_pairs(task.train_files, store), len(store)), alignment
        ),
        _loader(task),
        _optimizer(model, alignment),
        _fit_config(task.fit, alignment, judged=len(held_out) > 0),
        evaluate=(lambda: held_out.recall(encoder)) if len(held_out) else None,
    )
    written: dict[str, Any] = {}
    if collectives.rank() == 0:
        written = artifact.save(task.artifact_uri, encoder, task.items.backbones)
    return EncoderResult(
        artifact=collectives.broadcast_object(written),
        history=result.history,
        start=start,
        best_epoch=result.best_epoch,
        best_metrics=result.best_metrics,
        rows_per_rank=result.rows_per_rank,
        items=len(store),
        valid_pairs=len(held_out),
        temperature=float(model.temperature().detach()),
        seconds=result.seconds,
    )


def _loader(task: EncoderTask) -> EpochLoader:
    world, shards = collectives.size(), task.loader.shards
    return EpochLoader(
        task.train_files,
        list(COLUMNS),
        task.loader,
        batch_size=-(-task.alignment.batch_size // shards) * (shards // world),
        rank=collectives.rank(),
        world=world,
        seed=task.alignment.seed,
    )


def _fit_config(config: FitConfig, alignment: Alignment, judged: bool) -> FitConfig:
    """``config`` of the run with what the section says; ``judged``: there are held-out pairs."""
    return replace(
        config,
        epochs=alignment.epochs,
        warmup_steps=alignment.optimizer.warmup_steps,
        schedule=alignment.optimizer.schedule,
        gradient_clip=alignment.optimizer.gradient_clip,
        monitor=METRIC if judged else None,
        patience=alignment.patience if judged else None,
        seed=alignment.seed,
    )


def start_at_principal_axes(encoder: ItemEncoder, store: ItemStore, seed: int) -> None:
    """Initialise the towers from an evenly spread sample of the training items."""
    rows = np.linspace(0, len(store) - 1, min(len(store), _START_ITEMS)).astype(np.int64)
    encoder.start(store.batch(rows, features_of=encoder.finetune), seed)


def _loss_function(
    store: ItemStore, known: KnownPairs, alignment: Alignment
) -> Callable[[Any, Batch], tuple[Tensor, Tensor]]:
    def loss(model: AlignmentModel, batch: Batch) -> tuple[Tensor, Tensor]:
        pairs = pair_batch(batch, store)
        triggers, targets = encode_pairs(model.encoder, store, pairs.triggers, pairs.targets)
        return info_nce(
            triggers, targets, pairs, model.temperature(), logq=alignment.logq, known=known
        )

    return loss


def _optimizer(model: AlignmentModel, alignment: Alignment) -> torch.optim.Optimizer:
    settings = alignment.optimizer
    groups = model.encoder.parameter_groups(
        settings.learning_rate, settings.weight_decay, alignment.backbone_learning_rate
    )
    own = {"params": list(model.temperature.parameters()), "weight_decay": 0.0}
    return torch.optim.AdamW([*groups, own], lr=settings.learning_rate)


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", collectives.local_rank() % torch.cuda.device_count())
    return torch.device("cpu")
