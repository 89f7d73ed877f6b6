"""A batch as the model reads it: distinct items, rows of hashed tables, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qarm.ranking.inputs import bucket, distinct
from tests.ranking.batches import batch_of, lookup_of


@pytest.mark.parametrize("rows", [50, 10_000])
def test_distinct_numbers_and_places(rows):
    numbers = np.random.default_rng(0).integers(0, 50, 100)
    found, places = distinct(numbers, rows)
    np.testing.assert_array_equal(found, np.unique(numbers))
    np.testing.assert_array_equal(found[places], numbers)


def test_numbers_beyond_the_buckets_are_hashed():
    numbers = np.array([0, 9, 10, 11, 10**12])
    rows = bucket(numbers, 10)
    assert rows[:2].tolist() == [0, 9]
    assert (rows < 10).all()
    spread = np.bincount(bucket(np.arange(10, 100_010), 10), minlength=10)
    assert spread.min() > 9_000


def test_places_lead_back_to_the_items(table):
    lookup, numbers = lookup_of(table)
    batch = batch_of(20)
    inputs = lookup.inputs(batch)
    items = inputs.items.id_row  # every id fits into its table
    assert torch.equal(items[inputs.target], batch["item_idx"])
    history = batch["history_item_idx"][:, -inputs.history.shape[1] :]
    assert torch.equal(inputs.is_real, history >= 0)
    assert torch.equal(items[inputs.history][inputs.is_real], history[inputs.is_real])
    assert len(items) == len(set(items.tolist()))
    np.testing.assert_array_equal(inputs.items.vector, table.vector[items])
    np.testing.assert_array_equal(inputs.items.rq_rows, numbers.rows(table.rq)[items])


def test_histories_are_cut_to_the_longest(table):
    lookup, _ = lookup_of(table)
    batch = batch_of(20)
    short = batch["history_length"] <= 2
    few = {name: values[short] for name, values in batch.items()}
    assert lookup.inputs(few).history.shape == (int(short.sum()), 2)
    none = {name: values[:1] for name, values in batch.items()}
    assert lookup.inputs(none).history.shape == (1, 1)
    assert not lookup.inputs(none).is_real.any()


def test_age_is_the_logarithm_of_days(table):
    lookup, _ = lookup_of(table)
    batch = batch_of(9)
    inputs = lookup.inputs(batch)
    times = batch["history_ts"][:, -inputs.age.shape[1] :]
    days = (batch["ts"][:, None] - times) / 86_400
    expected = torch.where(inputs.is_real, torch.log1p(days), torch.zeros(()))
    torch.testing.assert_close(inputs.age, expected.float())
