"""Pairs of the training table as batches of item rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qarm.alignment.item_store import ItemStore
from qarm.alignment.loss import PairBatch
from qarm.encoders.fusion import ItemEncoder
from qarm.training.item_arrays import record_batches
from qarm.training.loader import WEIGHT

if TYPE_CHECKING:
    from qarm.training.loop import Batch

#: Columns of alignment_pairs that training reads.
COLUMNS = ("trigger", "target", "weight", "trigger_logq", "target_logq")
_CHUNK = 2048
_RAW_CHUNK = 64


def pair_batch(batch: Batch, store: ItemStore) -> PairBatch:
    """A loader's batch with item rows in place of item_idx; padding gets weight 0."""
    device = batch["weight"].device
    triggers, targets = (
        torch.from_numpy(store.rows_of(batch[name].cpu().numpy())).to(device)
        for name in ("trigger", "target")
    )
    return PairBatch(
        triggers,
        targets,
        batch["trigger_logq"],
        batch["target_logq"],
        batch["weight"] * batch[WEIGHT],
    )


def encode_pairs(
    encoder: ItemEncoder, store: ItemStore, triggers: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors of triggers and targets, (B, d) each; repeated items are encoded once."""
    distinct, inverse = torch.unique(torch.cat([triggers, targets]), return_inverse=True)
    vectors = encoder(store.batch(distinct.cpu().numpy()).to(triggers.device))
    return vectors[inverse[: len(triggers)]], vectors[inverse[len(triggers) :]]


@torch.no_grad()
def encode_rows(encoder: ItemEncoder, store: ItemStore, rows: NDArray[np.int64]) -> Tensor:
    """Vectors of items, (len(rows), d), without gradient, encoded in chunks."""
    device = encoder.empty.device
    size = _RAW_CHUNK if encoder.finetune else _CHUNK
    chunks = [
        encoder(store.batch(rows[start : start + size]).to(device))
        for start in range(0, len(rows), size)
    ]
    return torch.cat(chunks) if chunks else encoder.empty.new_zeros(0, encoder.config.dimensions)


def read_pairs(
    uris: Sequence[str], store: ItemStore
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(triggers, targets) of the files as item rows, a few thousand at a time."""
    for batch in record_batches(uris, ["trigger", "target"]):
        triggers, targets = (
            store.rows_of(batch.column(name).to_numpy()) for name in ("trigger", "target")
        )
        yield triggers, targets


class AlignmentModel(nn.Module):
    """The trained parameters: the encoder and the temperature of the loss."""

    def __init__(self, encoder: ItemEncoder, temperature: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.temperature = temperature
