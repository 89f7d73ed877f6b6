"""What readers of a lake see: manifests decide, not the latest version of a table."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from qarm.errors import InputError, MissingStageError
from qarm.lake import files, manifest
from qarm.lake.manifest import Manifest
from qarm.lake.published import PublishedLake
from qarm.lake.tables import TableRef
from schemas import TABLES


class Loaded(NamedTuple):
    """Stands for a frame with the columns of items."""

    path: str
    version: int

    @property
    def columns(self) -> list[str]:
        return TABLES["items"].column_names


class Reader:
    """Stands for the Spark session; answers with what it was asked for."""

    def __init__(self) -> None:
        self.read = self

    def format(self, name: str) -> Reader:
        assert name == "delta"
        return self

    def option(self, name: str, value: int) -> Reader:
        assert name == "versionAsOf"
        self.version = value
        return self

    def load(self, path: str) -> Loaded:
        return Loaded(path, self.version)


def publish(root: str, stage: str, versions: dict[str, int], **fields) -> None:
    outputs = {
        name: TableRef(name, f"{root}/tables/{name}", version).as_dict()
        for name, version in versions.items()
    }
    manifest.publish(root, Manifest(stage, "r", "c", "v", {}, outputs, **fields))


@pytest.fixture
def root(tmp_path) -> str:
    return str(tmp_path / "lake")


def test_tables_at_their_published_versions(root) -> None:
    publish(root, "ingest", {"items": 3, "interactions": 5})
    publish(root, "mine-pairs", {"item_pairs": 2})
    lake = PublishedLake(Reader(), root)
    assert {name: ref.version for name, ref in lake.refs().items()} == {
        "interactions": 5,
        "item_pairs": 2,
        "items": 3,
    }
    assert list(lake.refs()) == sorted(lake.refs())
    assert lake.table("items") == (f"{root}/tables/items", 3)
    publish(root, "ingest", {"items": 4})
    assert lake.table("items") == (f"{root}/tables/items", 4), "a new run is seen"
    assert "interactions" not in lake.refs(), "the new run has not written it"


def test_the_newest_version_if_two_stages_write_a_table(root) -> None:
    publish(root, "evaluate", {"metrics": 8})
    publish(root, "train-ranker", {"metrics": 7})
    assert PublishedLake(Reader(), root).refs()["metrics"].version == 8


def test_a_table_that_no_stage_has_published(root) -> None:
    lake = PublishedLake(Reader(), root)
    assert lake.refs() == {}
    with pytest.raises(MissingStageError, match=r"has published items in .*; published: nothing"):
        lake.table("items")
    publish(root, "ingest", {"items": 0, "interactions": 0})
    with pytest.raises(MissingStageError, match="published: interactions, items"):
        lake.table("item_pairs")


def test_artifacts(root) -> None:
    lake = PublishedLake(Reader(), root)
    with pytest.raises(MissingStageError, match="train-alignment has not published encoder"):
        lake.artifact("train-alignment", "encoder")
    encoder = {"uri": f"{root}/encoder", "version": "abc"}
    publish(root, "train-alignment", {}, artifacts={"encoder": encoder})
    assert lake.artifact("train-alignment", "encoder") == encoder
    with pytest.raises(MissingStageError, match="has not published decoder"):
        lake.artifact("train-alignment", "decoder")


def test_a_damaged_manifest_is_named(root) -> None:
    publish(root, "ingest", {"items": 0})
    files.write_text(f"{root}/manifests/ingest.json", "{}")
    with pytest.raises(InputError, match=r"ingest\.json is not a manifest .*run the stage again"):
        PublishedLake(Reader(), root).refs()
