"""Test pairs that stage quality has mined are taken where nothing differs, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qarm.config import Config
from qarm.evaluation import kept_pairs
from qarm.evaluation.new_pairs import mine
from qarm.lake import files, manifest


@pytest.fixture(scope="module")
def pairs(tiny_tables):
    """Test pairs of the tiny log, mined once."""
    tree = {"lake": tiny_tables.config.lake, "pairs": {"swing": {"min_items_per_user": 2}}}
    config = Config.model_validate(tree)
    return mine(replace(tiny_tables, config=config, inputs={}))


@pytest.fixture
def kept(tiny_lake, pairs):
    """The artifact of stage quality in the tiny lake."""
    context = replace(tiny_lake(), stage="quality")
    artifact = kept_pairs.keep(context, pairs)
    found = manifest.Manifest("quality", "r", "", "", {}, {}, {kept_pairs.ARTIFACT: artifact})
    manifest.publish(context.lake.root, found)
    yield artifact
    files.remove_tree(files.join(context.lake.root, "manifests", "quality.json"))


@pytest.fixture
def mined(monkeypatch) -> list[str]:
    """A line for each time that pairs are mined anew; no pairs then."""
    times: list[str] = []
    monkeypatch.setattr(kept_pairs, "mine", lambda context: times.append(context.stage) or {})
    return times


def test_taken_as_they_were(tiny_lake, kept, mined, pairs) -> None:
    found = kept_pairs.pairs_of(replace(tiny_lake(), stage="evaluate"))
    assert not mined
    assert found.keys() == pairs.keys() == {"u2i", "swing"}
    for source, there in pairs.items():
        assert len(there) > 0
        for name in ("trigger", "target", "warm", "group"):
            np.testing.assert_array_equal(getattr(found[source], name), getattr(there, name))
            assert getattr(found[source], name).dtype == getattr(there, name).dtype
        assert (found[source].mined, found[source].dropped) == (there.mined, there.dropped)


@pytest.mark.parametrize(
    "changed",
    [
        {"evaluation": {"max_pairs": 1}},
        {"alignment": {"sources": {"itemcf": 1.0}}},
        {"pairs": {"u2i": {"window": 1}}},
    ],
)
def test_other_settings_mine_anew(tiny_lake, kept, mined, changed) -> None:
    assert kept_pairs.pairs_of(replace(tiny_lake(**changed), stage="evaluate")) == {}
    assert mined == ["evaluate"]


def test_another_version_of_a_table_or_no_file_mines_anew(tiny_lake, kept, mined) -> None:
    other = replace(tiny_lake(), stage="evaluate")
    ref = other.ref("item_pairs")
    other.outputs["item_pairs"] = replace(ref, version=ref.version + 1)
    assert kept_pairs.pairs_of(other) == {}
    files.remove_tree(kept["uri"])
    assert kept_pairs.pairs_of(replace(tiny_lake(), stage="evaluate")) == {}
    assert mined == ["evaluate"] * 2
