"""The stages' declarations: what makes a stage run again is all that it depends on."""

from __future__ import annotations

import pytest

from qarm.config import Config
from qarm.errors import ConfigError
from qarm.pairs import scratch
from qarm.pipeline.stages import BY_NAME, STAGES, Stage, stage
from schemas import TABLES


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


@pytest.mark.parametrize("name", ["evaluate", "quality"])
def test_what_counts_as_known_from_training_makes_the_judges_run_again(name) -> None:
    config = Config()
    changed = config.alignment.model_copy(update={"sources": {"swing": 1.0}})
    other = config.model_copy(update={"alignment": changed})
    assert stage(name).settings(config) != stage(name).settings(other)


@pytest.mark.parametrize("each", STAGES, ids=lambda each: each.name)
def test_declarations_name_tables_settings_and_stages_that_exist(each: Stage) -> None:
    tables = {*each.inputs, *each.optional_inputs, *each.outputs}
    named = tables | {name for group in each.replaced_by for name in group}
    assert named <= TABLES.keys() | scratch.TABLES.keys()
    assert each.settings(Config()).keys() == set(each.sections)
    assert {artifact.partition("/")[0] for artifact in each.artifacts} <= set(BY_NAME)
    assert callable(each.load())


def test_a_table_is_read_after_the_stage_that_writes_it() -> None:
    written: set[str] = set()
    for each in STAGES:
        assert set(each.inputs) <= written
        written |= set(each.outputs)
    assert [each.name for each in STAGES if each.reads_sources] == ["ingest"]
    assert [each.name for each in STAGES if each.completes_metrics] == ["evaluate"]


def test_names_of_stages_and_of_jobs() -> None:
    assert stage("mine_pairs") is stage("mine-pairs") is BY_NAME["mine-pairs"]
    with pytest.raises(ConfigError, match="no stage 'mine'; stages: ingest, mine-pairs"):
        stage("mine")
