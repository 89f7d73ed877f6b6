"""Change between two sets of codes, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from qarm.evaluation.code_change import code_change

pytestmark = pytest.mark.spark


def _frame(spark, codes: np.ndarray, first: int = 0):
    rows = [(first + i, code.tolist()) for i, code in enumerate(codes)]
    return spark.createDataFrame(rows, "item_idx bigint, rq array<int>")


def test_figures_of_the_items_in_both_sets(spark) -> None:
    """Items 0 to 119 and 20 to 139; the new codes have one level more."""
    rng = np.random.default_rng(0)
    old = rng.integers(0, 4, (120, 2))
    new = rng.integers(0, 4, (120, 3))
    new[:100, 0] = np.where(rng.random(100) < 0.7, old[20:, 0], new[:100, 0])
    metrics = code_change(_frame(spark, old), _frame(spark, new, 20))
    figures = {m.metric: m for m in metrics}
    a, b = old[20:], new[:100, :2]
    for length in (1, 2):
        prefixes = (
            np.unique(c[:, :length], axis=0, return_inverse=True)[1].ravel() for c in (a, b)
        )
        groups = tuple(prefixes)
        for name, value in (
            ("changed", (a[:, length - 1] != b[:, length - 1]).mean()),
            ("prefix_changed", (a[:, :length] != b[:, :length]).any(axis=1).mean()),
            ("adjusted_rand", adjusted_rand_score(*groups)),
            ("nmi", normalized_mutual_info_score(*groups)),
        ):
            figure = figures[f"rq_{name}_l{length}"]
            assert (figure.value, figure.n) == (pytest.approx(value), 100), name
    assert len(metrics) == 8


def test_no_common_items(spark) -> None:
    codes = np.zeros((2, 1), int)
    assert code_change(_frame(spark, codes), _frame(spark, codes, 5)) == []
