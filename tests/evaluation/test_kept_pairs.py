"""Test pairs that stage quality has mined are taken where nothing differs, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qarm.evaluation import kept_pairs
from qarm.evaluation.new_pairs import mine
from qarm.lake import files, manifest


@pytest.fixture
def kept(tiny_lake):
    """A context whose lake has the pairs of stage quality, their artifact, and the pairs."""
    context = replace(tiny_lake(), stage="quality")
    pairs = mine(context)
    artifact = kept_pairs.keep(context, pairs)
    found = manifest.Manifest("quality", "r", "", "", {}, {}, {kept_pairs.ARTIFACT: artifact})
    manifest.publish(context.lake.root, found)
    yield context, artifact, pairs
    files.remove_tree(files.join(context.lake.root, "manifests", "quality.json"))


@pytest.fixture
def mined(monkeypatch) -> list[str]:
    """A line for each time that pairs are mined anew."""
    times: list[str] = []

    def counting(context):
        times.append(context.stage)
        return mine(context)

    monkeypatch.setattr(kept_pairs, "mine", counting)
    return times


def same(one, other) -> bool:
    arrays = all(
        np.array_equal(getattr(one[s], n), getattr(other[s], n))
        for s in one
        for n in ("trigger", "target", "warm", "group")
    )
    counts = all((one[s].mined, one[s].dropped) == (other[s].mined, other[s].dropped) for s in one)
    return one.keys() == other.keys() and arrays and counts


def test_taken_as_they_were(tiny_lake, kept, mined) -> None:
    found = kept_pairs.pairs_of(replace(tiny_lake(), stage="evaluate"))
    assert not mined
    assert same(found, kept[2])
    assert found["u2i"].warm.dtype == bool


@pytest.mark.parametrize(
    "changed",
    [
        {"evaluation": {"max_pairs": 1}},
        {"alignment": {"sources": {"itemcf": 1.0}}},
        {"pairs": {"u2i": {"window": 1}}},
    ],
)
def test_other_settings_mine_anew(tiny_lake, kept, mined, changed) -> None:
    context = replace(tiny_lake(**changed), stage="evaluate")
    found = kept_pairs.pairs_of(context)
    assert mined == ["evaluate"]
    assert same(found, mine(context))


def test_another_version_of_a_table_or_no_file_mines_anew(tiny_lake, kept, mined) -> None:
    context, artifact, pairs = kept
    ref = context.ref("item_pairs")
    other = replace(tiny_lake(), stage="evaluate")
    other.outputs["item_pairs"] = replace(ref, version=ref.version - 1)
    kept_pairs.pairs_of(other)
    assert mined == ["evaluate"]
    files.remove_tree(artifact["uri"])
    assert same(kept_pairs.pairs_of(replace(tiny_lake(), stage="evaluate")), pairs)
    assert mined == ["evaluate"] * 2
