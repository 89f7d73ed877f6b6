"""The ranker on two ranks is the ranker on one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from qarm.config.training import Training
from qarm.ranking import trainer
from qarm.training import checkpoint
from qarm.training.launch import launch
from tests.ranking import ranks

KINDS = {True: 1e-9, False: 1e-5}
"""Exact arithmetic or not -> how near two trainings come."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[tuple[int, bool], tuple]:
    """(ranks, exact) -> result and weights of the whole trainer over an epoch."""
    found = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"world{world}")
        tasks = [ranks.write_world(folder / str(exact)) for exact in KINDS]
        results = launch(
            "tests.ranking.ranks:train_each",
            ranks.Trainings(exact=tasks[:1], fast=tasks[1:]),
            list[ranks.Trained],
            Training(ranks=world, restarts=0),
            work_dir=str(folder / "ranks"),
        )
        for exact, task, trained in zip(KINDS, tasks, results, strict=True):
            last = checkpoint.latest(f"{task.fit.checkpoint_folder}/vq_rq-0-0")
            assert last is not None
            weights = load_file(f"{last.folder}/model.safetensors")
            found[world, exact] = (trained, weights)
    return found


@pytest.mark.horovod
@pytest.mark.parametrize(("exact", "tolerance"), KINDS.items())
def test_two_ranks_train_as_one_with_twice_the_batch(seen, exact: bool, tolerance: float) -> None:
    """Loss of each step, and every weight."""
    for world in (1, 2):
        result, _ = seen[world, exact]
        assert sum(result.rows_per_rank) == ranks.SAMPLES
        assert result.sparse_tables == 5  # ids and biases of items, users, RQ, VQ
    (one, weights), (two, other_weights) = seen[1, exact], seen[2, exact]
    assert len(one.losses) > 20
    assert one.losses[-1] != one.losses[0]
    np.testing.assert_allclose(two.losses, one.losses, rtol=0, atol=tolerance)
    assert two.auc == pytest.approx(one.auc, abs=1e-12 if exact else 1e-3)
    for name, weight in weights.items():
        assert weight.dtype == (np.float64 if exact else np.float32), name
        np.testing.assert_allclose(
            other_weights[name], weight, rtol=0, atol=tolerance, err_msg=name
        )


def test_scores_of_an_earlier_start_with_more_ranks_leave(tmp_path) -> None:
    task = ranks.write_world(tmp_path / "world")
    stale = tmp_path / "world" / "scores" / "vq_rq-0-test-1.parquet"
    stale.parent.mkdir()
    stale.write_bytes(b"of a rank that is no more")
    task = replace(task, files={**task.files, "test": task.files["valid"]})
    trainer.train(task)
    assert sorted(path.name for path in stale.parent.iterdir()) == [
        "vq_rq-0-test-0.parquet",
        "vq_rq-0-valid-0.parquet",
    ]
