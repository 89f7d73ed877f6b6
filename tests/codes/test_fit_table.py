"""Fit on a table by Spark against the arrays core."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes import fit_table
from qarm.codes.fit_table import fit_residual_table
from qarm.codes.residual import fit_residual
from qarm.errors import InputError, plain_errors

pytestmark = pytest.mark.spark


def table(spark, x, parts):
    rows = [(i, v.tolist()) for i, v in enumerate(x)]
    return spark.createDataFrame(rows, "item_idx bigint, vector array<float>").repartition(parts)


def points(n=900, d=7, seed=0):
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((30, d))
    return (topics[rng.integers(30, size=n)] + 0.3 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize("shrink", [0.0, None])
def test_equals_the_arrays_core_from_the_same_start(spark, monkeypatch, shrink) -> None:
    monkeypatch.setattr(fit_table, "_FAR_ROWS", 2)  # so that one look is not enough
    x = points()
    start = [x[:40].copy(), x[:15] - x[20:35]]
    start[0][5:8] += 1e3  # far from everything: empty clusters, to be seeded again
    told: list[str] = []
    ours = fit_residual_table(
        table(spark, x, 3), [40, 15], iterations=2, seeds=x[:60], start=start, shrink=shrink,
        say=told.append,
    )  # fmt: skip
    arrays = fit_residual(x, [40, 15], iterations=2, start=start, shrink=shrink)
    assert ours.shrunk_by == arrays.shrunk_by
    assert (ours.shrunk_by[1] > 0) == (shrink is None)
    np.testing.assert_allclose(ours.errors, arrays.errors, rtol=1e-6)
    for mine, theirs in zip(ours.levels, arrays.levels, strict=True):
        np.testing.assert_array_equal(mine, theirs)  # sums are exact, so to the last bit
    assert abs(ours.levels[0]).max() < 10
    assert ours.rows == 900
    np.testing.assert_array_equal(ours.codes, arrays.codes[:60])  # those of the seeds
    assert ours.mean_square == pytest.approx(arrays.mean_square)
    assert len(told) == 2


def test_stops_where_nothing_moves_and_asks_no_more_of_the_driver(spark) -> None:
    x = points(300)
    arrays = fit_residual(x, [12], iterations=100, seed=1)
    again = fit_residual_table(
        table(spark, x, 2), [12], iterations=100, seeds=x[:12], start=arrays.levels
    )
    assert again.iterations == [1]
    np.testing.assert_array_equal(again.levels[0], arrays.levels[0])
    assert again.errors[0] == pytest.approx(arrays.errors[0], rel=1e-9)


def test_bad_input(spark) -> None:
    x = points(50)
    with pytest.raises(InputError, match="need >= 51 points, got 50"):
        fit_residual_table(table(spark, x, 1), [51], iterations=1, seeds=x)
    with pytest.raises(InputError, match=r"start has levels of shape \[\(3, 7\)\]"):
        fit_residual_table(table(spark, x, 1), [4], iterations=1, seeds=x, start=[x[:3]])
    with pytest.raises(InputError, match="need >= 4 points, got 0"):
        fit_residual_table(table(spark, x, 1).where("item_idx < 0"), [4], iterations=1, seeds=x)
    x[7, 3] = np.nan
    with pytest.raises(InputError, match="1 of 50 vectors have NaN"), plain_errors():
        fit_residual_table(table(spark, x, 1), [4], iterations=1, seeds=x[:5])
