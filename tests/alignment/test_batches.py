"""Pairs as rows of the store, and vectors of each item once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from qarm.alignment import batches
from qarm.alignment.batches import encode_pairs, encode_rows, pair_batch, read_pairs
from qarm.encoders.fusion import ItemBatch
from qarm.errors import InputError
from qarm.training.loader import WEIGHT

ITEMS = np.array([10, 20, 30, 40, 50])


class Store:
    """Items 10, 20, ... at rows 0, 1, ...; the only feature is the row."""

    def rows_of(self, items: np.ndarray) -> np.ndarray:
        if not np.isin(items, ITEMS).all():
            raise InputError("occur in no training pair")
        return np.searchsorted(ITEMS, items)

    def batch(self, rows: np.ndarray) -> ItemBatch:
        return ItemBatch(len(rows), {"row": torch.from_numpy(rows).float()})


class Encoder(torch.nn.Module):
    """The vector of a row: (row, 10 row). Records what it was called with."""

    def __init__(self, finetune: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config = SimpleNamespace(dimensions=2)
        self.finetune = finetune
        self.empty = torch.nn.Parameter(torch.zeros(2))
        self.scale = torch.nn.Parameter(torch.tensor([1.0, 10.0]))
        self.calls: list[list[int]] = []

    def forward(self, batch: ItemBatch) -> torch.Tensor:
        rows = batch.features["row"]
        self.calls.append(rows.int().tolist())
        return rows[:, None] * self.scale


def test_items_become_rows_and_padding_has_no_weight() -> None:
    batch = {
        "trigger": torch.tensor([30, 10, 10]),
        "target": torch.tensor([50, 20, 20]),
        "weight": torch.tensor([2.0, 0.5, 0.5]),
        "trigger_logq": torch.tensor([-1.0, -2.0, -2.0]),
        "target_logq": torch.tensor([-3.0, -4.0, -4.0]),
        WEIGHT: torch.tensor([1.0, 1.0, 0.0]),
    }
    pairs = pair_batch(batch, Store())
    assert pairs.triggers.tolist() == [2, 0, 0]
    assert pairs.targets.tolist() == [4, 1, 1]
    assert pairs.weights.tolist() == [2.0, 0.5, 0.0]
    assert pairs.trigger_logq.tolist() == [-1.0, -2.0, -2.0]
    assert pairs.target_logq.tolist() == [-3.0, -4.0, -4.0]


def test_an_item_outside_the_store_is_an_error() -> None:
    batch = {name: torch.tensor([10]) for name in ("target", "trigger_logq", "target_logq")}
    batch |= {"trigger": torch.tensor([11]), "weight": torch.ones(1), WEIGHT: torch.ones(1)}
    with pytest.raises(InputError, match="no training pair"):
        pair_batch(batch, Store())


def test_repeated_items_are_encoded_once() -> None:
    encoder = Encoder()
    triggers, targets = torch.tensor([3, 1, 3]), torch.tensor([1, 4, 4])
    left, right = encode_pairs(encoder, Store(), triggers, targets)
    assert encoder.calls == [[1, 3, 4]]
    assert left[:, 0].tolist() == [3, 1, 3]
    assert right[:, 0].tolist() == [1, 4, 4]
    # Gradients of all occurrences arrive.
    (left[:, 0].sum() + right[:, 1].sum()).backward()
    assert encoder.scale.grad.tolist() == [7.0, 9.0]


@pytest.mark.parametrize(("finetune", "chunk"), [((), 2048), (("text",), 64)])
def test_rows_are_encoded_in_chunks_without_gradient(finetune, chunk: int) -> None:
    """Raw content takes far more memory per item than cached features: smaller chunks."""
    encoder = Encoder(finetune)
    rows = np.arange(chunk + 3)[::-1].copy()
    vectors = encode_rows(encoder, Store(), rows)
    assert [len(call) for call in encoder.calls] == [chunk, 3]
    assert vectors[:, 0].tolist() == rows.tolist()
    assert not vectors.requires_grad


def test_no_rows_have_no_vectors() -> None:
    encoder = Encoder()
    assert encode_rows(encoder, Store(), np.zeros(0, np.int64)).shape == (0, 2)
    assert encoder.calls == []


def test_pairs_of_files_in_their_order(tmp_path) -> None:
    uris = []
    for name, triggers, targets in (("b", [10, 50], [20, 10]), ("a", [30], [40])):
        path = str(tmp_path / name)
        columns = {"other": ["x"] * len(triggers), "target": targets, "trigger": triggers}
        parquet.write_table(pa.table(columns), path)
        uris.append(path)
    read = [(left.tolist(), right.tolist()) for left, right in read_pairs(uris, Store())]
    assert read == [([0, 4], [1, 0]), ([2], [3])]
    assert list(read_pairs([], Store())) == []


def test_the_model_trains_the_encoder_and_the_temperature() -> None:
    temperature = torch.nn.Linear(1, 1, bias=False)
    model = batches.AlignmentModel(Encoder(), temperature)
    assert {name for name, _ in model.named_parameters()} == {
        "encoder.empty",
        "encoder.scale",
        "temperature.weight",
    }
