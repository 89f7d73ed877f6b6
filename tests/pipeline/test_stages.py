"""The stages' declarations: what makes a stage run again is all that it depends on."""

from __future__ import annotations

import pytest

from qarm.config import Config
from qarm.pipeline.stages import stage


@pytest.mark.parametrize("name", ["train-alignment", "train-ranker"])
@pytest.mark.parametrize(
    ("section", "setting", "value", "again"),
    [
        ("training", "ranks", 4, False),
        ("training", "restarts", 9, False),
        ("training", "checkpoint_steps", 7, False),
        ("loader", "workers", 9, False),
        ("loader", "shards", 16, True),
        ("loader", "shuffle_rows", 7, True),
        ("training", "mixed_precision", True, True),
    ],
)
def test_where_a_training_runs_does_not_make_it_run_again(name, section, setting, value, again):
    config = Config()
    changed = getattr(config, section).model_copy(update={setting: value})
    other = config.model_copy(update={section: changed})
    assert (stage(name).settings(config) != stage(name).settings(other)) is again
