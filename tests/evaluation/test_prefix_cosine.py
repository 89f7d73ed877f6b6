"""Cosines inside prefixes against all pairs, and groups that span batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from qarm.evaluation import prefix_cosine as module
from tests.evaluation.oracles import prefix_cosine


def test_cosine_inside_a_prefix_equals_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5)).astype(np.float32)
    codes = rng.integers(0, 3, (60, 2))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for length, value in enumerate(prefix_cosine(x, codes), start=1):
        same = (codes[:, None, :length] == codes[None, :, :length]).all(-1) & ~np.eye(
            60, dtype=bool
        )
        others = same.sum(1)
        each = (cosine * same).sum(1)[others > 0] / others[others > 0]
        assert value == pytest.approx(each.mean(), rel=1e-5)


def test_no_shared_prefix() -> None:
    assert np.isnan(prefix_cosine(np.eye(3, dtype=np.float32), np.array([[0], [1], [2]]))).all()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_groups_may_span_batches(size) -> None:
    """The task that Spark runs, on batches of any size."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((90, 4)).astype(np.float32)
    codes = rng.integers(0, 5, (90, 1))
    order = np.argsort(codes[:, 0], kind="stable")
    rows = pa.table(
        {
            "length": pa.array(np.ones(90), pa.int32()),
            "prefix": pa.array(codes[order, 0]),
            "vector": pa.array(x[order].tolist(), pa.list_(pa.float32())),
        }
    )
    (totals,) = module._group_sums(iter(rows.to_batches(size)))
    assert totals["groups"].to_pylist() == [5]
    mean = totals["total"][0].as_py() / totals["items"][0].as_py()
    assert mean == pytest.approx(prefix_cosine(x, codes)[0])


@pytest.mark.spark
def test_a_sample_has_about_the_figures_of_all_items(many_items) -> None:
    frames = many_items
    rows = len(frames.x)
    figures = module.prefix_cosines(frames.ids, frames.vectors, frames.sizes, rows, 600)
    everything = np.zeros((rows, 1), int)
    expected = prefix_cosine(frames.x, everything) + prefix_cosine(frames.x, frames.codes)
    assert [m.metric for m in figures] == [f"rq_prefix_cosine_l{n}" for n in range(3)]
    for figure, value in zip(figures, expected, strict=True):
        assert 200 < figure.n < 1200
        assert figure.value == pytest.approx(value, abs=0.05)
