"""The ranker on two ranks is the ranker on one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from qarm.training import checkpoint
from qarm.training.launch import launch
from tests.ranking import ranks


@pytest.mark.horovod
@pytest.mark.parametrize(("exact", "tolerance"), [(True, 1e-9), (False, 1e-5)])
def test_two_ranks_train_as_one_with_twice_the_batch(
    tmp_path: Path, exact: bool, tolerance: float
) -> None:
    """The whole trainer over an epoch: loss of each step, and every weight."""
    seen = {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        spec = {"exact": exact, "train": ranks.write_world(folder)}
        work_dir = str(folder / "ranks")
        result = launch("tests.ranking.ranks:train", spec, ranks=world, work_dir=work_dir)
        assert sum(result["rows_per_rank"]) == ranks.SAMPLES
        assert result["sparse_tables"] == 5  # ids and biases of items, users, RQ, VQ
        found = checkpoint.latest(f"{spec['train']['checkpoints']}/vq_rq-0-0")
        assert found is not None
        seen[world] = (result, load_file(f"{found.folder}/model.safetensors"))
    (one, weights), (two, other_weights) = seen[1], seen[2]
    assert len(one["losses"]) > 20
    assert one["losses"][-1] != one["losses"][0]
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=tolerance)
    assert two["auc"] == pytest.approx(one["auc"], abs=1e-12 if exact else 1e-3)
    for name, weight in weights.items():
        assert weight.dtype == (np.float64 if exact else np.float32), name
        np.testing.assert_allclose(
            other_weights[name], weight, rtol=0, atol=tolerance, err_msg=name
        )
