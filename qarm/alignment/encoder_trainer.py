"""Training of the item encoder on one rank; ``qarm.training.launch`` starts it on each."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
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
from qarm.alignment.held_out import METRIC, HeldOutPairs
from qarm.alignment.item_store import ItemStore, StoreSpec, open_store
from qarm.alignment.known_pairs import KnownPairs
from qarm.alignment.loss import Temperature, info_nce
from qarm.config import fingerprint
from qarm.config.alignment import Alignment
from qarm.config.encoder import Encoder
from qarm.encoders import artifact
from qarm.encoders.fusion import ItemEncoder
from qarm.training import collectives
from qarm.training.loader import EpochLoader
from qarm.training.loop import Batch, fit

#: Items whose features give the start of the towers.
_START_ITEMS = 20_000


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """What a training needs; JSON-able."""

    encoder: dict[str, Any]
    """Section encoder."""
    alignment: dict[str, Any]
    """Section alignment."""
    train_files: list[str]
    valid_files: list[str]
    store: dict[str, Any]
    """``StoreSpec``."""
    artifact_uri: str
    """Folder for the encoder."""
    loader: dict[str, Any]
    """Section loader."""
    fit: dict[str, Any]
    """Further arguments of ``fit``: checkpoints, events, precision, manifest."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Train the encoder, and write it on rank 0.

    Args:
        spec: ``TrainSpec`` as a dict.

    Returns:
        artifact, history (one entry an epoch), start (metrics before training), best_epoch,
        best_metrics, rows_per_rank, items, valid_pairs, temperature, seconds.
    """
    given = TrainSpec(**spec)
    alignment = Alignment.model_validate(given.alignment)
    torch.manual_seed(alignment.seed)
    store_spec = StoreSpec(**given.store)
    folder = os.path.join(tempfile.gettempdir(), f"qarm-items-{fingerprint(given.store)}")
    store = open_store(folder, store_spec, builds=collectives.local_rank() == 0)
    try:
        return _train(given, alignment, store, store_spec)
    finally:
        if collectives.local_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _train(
    given: TrainSpec, alignment: Alignment, store: ItemStore, store_spec: StoreSpec
) -> dict[str, Any]:
    encoder = ItemEncoder(
        Encoder.model_validate(given.encoder),
        store_spec.feature_dims,
        attributes=store_spec.buckets > 0,
        finetune=alignment.finetune,
    )
    start_at_principal_axes(encoder, store, alignment.seed)
    model = AlignmentModel(
        encoder,
        Temperature(alignment.temperature, alignment.temperature_min, alignment.temperature_max),
    ).to(_device())
    collectives.broadcast_model(model)  # also for the figures before the first epoch
    held_out = HeldOutPairs(
        given.valid_files, store, alignment.valid_pairs, alignment.valid_candidates
    )
    start = held_out.recall(encoder)
    world, shards = collectives.size(), given.loader["shards"]
    loader = EpochLoader(
        given.train_files,
        list(COLUMNS),
        batch_size=-(-alignment.batch_size // shards) * (shards // world),
        rank=collectives.rank(),
        world=world,
        seed=alignment.seed,
        **given.loader,
    )
    result = fit(
        model,
        _loss_function(store, _known_pairs(given, alignment, store), alignment),
        loader,
        epochs=alignment.epochs,
        optimizer=_optimizer(model, alignment),
        warmup_steps=alignment.optimizer.warmup_steps,
        schedule=alignment.optimizer.schedule,
        evaluate=(lambda: held_out.recall(encoder)) if len(held_out) else None,
        monitor=METRIC if len(held_out) else None,
        patience=alignment.patience if len(held_out) else None,
        gradient_clip=alignment.optimizer.gradient_clip,
        seed=alignment.seed,
        **given.fit,
    )
    written: dict[str, Any] = {}
    if collectives.rank() == 0:
        written = artifact.save(given.artifact_uri, encoder, store_spec.backbones)
    return {
        "artifact": collectives.broadcast_object(written),
        "history": result.history,
        "start": start,
        "best_epoch": result.best_epoch,
        "best_metrics": result.best_metrics,
        "rows_per_rank": result.rows_per_rank,
        "items": len(store),
        "valid_pairs": len(held_out),
        "temperature": float(model.temperature().detach()),
        "seconds": result.seconds,
    }


def start_at_principal_axes(encoder: ItemEncoder, store: ItemStore, seed: int) -> None:
    """Start the towers from a sample of the training items, evenly spread."""
    rows = np.linspace(0, len(store) - 1, min(len(store), _START_ITEMS)).astype(np.int64)
    encoder.start(store.batch(rows, features_of=encoder.finetune), seed)


def _known_pairs(given: TrainSpec, alignment: Alignment, store: ItemStore) -> KnownPairs | None:
    if not alignment.mask_known_pairs:
        return None
    return KnownPairs(read_pairs(given.train_files, store), len(store))


def _loss_function(store: ItemStore, known: KnownPairs | None, alignment: Alignment) -> Any:
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
