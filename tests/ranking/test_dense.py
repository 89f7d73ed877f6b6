"""Dense features: the ranker's tensors are the floor's columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qarm.ranking.dense import DENSE, dense_columns, dense_features, dense_statistics

TOLERANCE = 2e-4
"""Of means and deviations of three rows: float32 gives the logit of 1 - 1e-4 to 6e-4."""

COLUMNS = ("user_count", "user_rate", "item_count", "item_rate", "history_length", "ts")
ROWS = [
    (3.0, 0.25, 10.0, 0.0, 0, 1_000_000, [0, 0]),
    (0.0, 0.25, 7.0, 1.0, 1, 1_000_000, [0, 900_000]),
    (9.0, 0.25, 0.0, 0.5, 2, 1_000_000, [100, 999_999]),
]
DDL = (
    "user_count float, user_rate float, item_count float, item_rate float, history_length int, "
    "ts bigint, history_ts array<bigint>"
)


def tensor_features() -> np.ndarray:
    columns = list(zip(*ROWS, strict=True))
    batch = {name: torch.tensor(values) for name, values in zip(COLUMNS, columns[:6], strict=True)}
    days = [0.0 if not row[4] else (row[5] - row[6][-1]) / 86_400 for row in ROWS]
    return dense_features(batch, torch.log1p(torch.tensor(days))).numpy()


@pytest.fixture
def samples(spark):
    return spark.createDataFrame(ROWS, DDL)


def test_columns_equal_tensors(samples):
    columns = dense_columns()
    assert tuple(columns) == DENSE
    rows = samples.select(*(column.alias(name) for name, column in columns.items())).collect()
    np.testing.assert_allclose(np.array(rows, float), tensor_features(), rtol=1e-4, atol=1e-6)


def test_statistics_and_the_deviation_of_a_constant(samples):
    found = dense_statistics(samples)
    expected = tensor_features().astype(float)
    np.testing.assert_allclose(found["mean"], expected.mean(0), rtol=1e-4, atol=TOLERANCE)
    deviation = expected.std(0)
    deviation[DENSE.index("user_rate")] = 1.0
    np.testing.assert_allclose(found["std"], deviation, rtol=1e-4, atol=TOLERANCE)
