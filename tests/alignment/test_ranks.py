from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qarm.training.launch import launch
from tests.alignment import ranks


@pytest.mark.horovod
def test_two_ranks_take_the_step_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    """Loss and every gradient: negatives, masks and padding are those of the global batch."""
    alone = ranks.one_step({"rows": 24})
    both = launch(
        "tests.alignment.ranks:one_step", {"rows": 24}, ranks=2, work_dir=str(tmp_path / "ranks")
    )
    assert both["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert both["weight"] == pytest.approx(alone["weight"], rel=1e-6)
    np.testing.assert_allclose(both["table"], alone["table"], atol=1e-6)
    assert both["temperature"] == pytest.approx(alone["temperature"], rel=1e-4)
    assert np.abs(alone["table"]).max() > 1e-3
