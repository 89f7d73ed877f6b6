"""Test pairs of the tiny log, worked out by hand; how they are saved."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.config import Config
from qarm.evaluation.held_out_pairs import TABLES, Settings, load, mine_test_pairs, save


def _mine(context):
    tables = {name: context.table(name) for name in TABLES}
    return mine_test_pairs(tables, Settings.of(context.config))


def _as_dict(pairs) -> dict[tuple[int, int], bool]:
    couples = zip(pairs.trigger.tolist(), pairs.target.tolist(), strict=True)
    return dict(zip(couples, pairs.warm.tolist(), strict=True))


def test_pairs_of_the_test_period_that_training_does_not_know(tiny_context, tmp_path) -> None:
    by_source = _mine(tiny_context())
    # 2 -> 3 is known the other way round; 0 -> 1 is known to ItemCF only, which trains nothing.
    assert _as_dict(by_source["u2i"]) == {(0, 1): False, (1, 3): True}
    assert by_source["u2i"].mined == 3
    assert by_source["u2i"].dropped == {"known_from_training": 1, "over_max_pairs": 0}
    # Users 1 and 4 share items 1 and 3 in the test part.
    assert _as_dict(by_source["swing"]) == {(1, 3): True, (3, 1): True}

    save(by_source, str(tmp_path / "pairs.safetensors"))
    again = load(str(tmp_path / "pairs.safetensors"))
    assert again.keys() == by_source.keys()
    for source, pairs in by_source.items():
        for name in ("trigger", "target", "warm", "group"):
            np.testing.assert_array_equal(getattr(again[source], name), getattr(pairs, name))
            assert getattr(again[source], name).dtype == getattr(pairs, name).dtype
        assert (again[source].mined, again[source].dropped) == (pairs.mined, pairs.dropped)


def test_sources_of_the_alignment_count_as_known_and_max_pairs_is_counted(tiny_context) -> None:
    sections = {"alignment": {"sources": {"itemcf": 1.0}}, "evaluation": {"max_pairs": 1}}
    by_source = _mine(tiny_context(**sections))
    assert _as_dict(by_source["u2i"]) == {(1, 3): True}
    assert by_source["u2i"].dropped == {"known_from_training": 2, "over_max_pairs": 0}
    assert len(by_source["swing"]) == 1
    assert by_source["swing"].dropped == {"known_from_training": 0, "over_max_pairs": 1}


@pytest.mark.parametrize(
    ("sections", "matters"),
    [
        ({"evaluation": {"max_pairs": 1}}, True),
        ({"alignment": {"sources": {"itemcf": 1.0}}}, True),
        ({"pairs": {"u2i": {"window": 1}}}, True),
        ({"pairs": {"swing": {"alpha2": 2.0}}}, True),
        ({"evaluation": {"recall_at": [7]}}, False),
        ({"pairs": {"u2i": {"min_similarity": 0.1}}}, False),
    ],
)
def test_settings_that_the_pairs_depend_on(sections, matters) -> None:
    config = Config.model_validate({"lake": "x", **sections})
    default = Settings.of(Config(lake="x"))
    assert (Settings.of(config).as_json() != default.as_json()) == matters
