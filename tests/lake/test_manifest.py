"""Manifests: what is published, and nothing else."""

from __future__ import annotations

import shutil

import pytest

from qarm.errors import InputError
from qarm.lake import files, manifest
from qarm.lake.manifest import Manifest
from qarm.lake.tables import TableRef


def _publish(root: str, stage: str, run_id: str, **versions: int) -> None:
    outputs = {name: TableRef(name, f"/t/{name}", v).as_dict() for name, v in versions.items()}
    manifest.publish(root, Manifest(stage, run_id, "c", "v", {}, outputs, facts={"n": 1}))


def test_the_last_run_counts_and_history_keeps_all(tmp_path) -> None:
    root = str(tmp_path)
    assert manifest.find(root, "ingest") is None
    assert manifest.pinned(root, "items") is None
    _publish(root, "ingest", "one", items=0, users=0)
    _publish(root, "ingest", "two", items=1)
    found = manifest.find(root, "ingest")
    assert found is not None
    assert (found.run_id, found.facts) == ("two", {"n": 1})
    assert manifest.pinned(root, "items") == TableRef("items", "/t/items", 1)
    assert manifest.pinned(root, "users") is None
    history = files.list_dir(files.join(root, "manifests", "history"))
    assert history == ["ingest-one.json", "ingest-two.json"]


def test_of_two_stages_the_newest_version_counts(tmp_path) -> None:
    root = str(tmp_path)
    _publish(root, "embed-catalog", "b", item_features=4)
    _publish(root, "train-alignment", "a", item_features=2)
    ref = manifest.pinned(root, "item_features")
    assert ref is not None
    assert ref.version == 4
    assert set(manifest.all_of(root)) == {"embed-catalog", "train-alignment"}


@pytest.mark.fire
def test_a_disk_that_fills_leaves_what_was_published(small_disk) -> None:
    root = str(small_disk)
    _publish(root, "ingest", "one", items=0)
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(OSError, match="No space left"):
        _publish(root, "ingest", "two", items=1)
    found = manifest.find(root, "ingest")
    assert found is not None
    assert found.run_id == "one"
    (small_disk / "filler").unlink()
    _publish(root, "ingest", "two", items=1)
    assert manifest.pinned(root, "items") == TableRef("items", "/t/items", 1)
    assert not list(small_disk.rglob("*.tmp"))


def test_damaged_and_later_files_are_errors(tmp_path) -> None:
    root = str(tmp_path)
    uri = files.join(root, "manifests", "ingest.json")
    files.write_text(uri, '{"stage": "ingest"}')
    with pytest.raises(InputError, match=r"ingest\.json is not a manifest"):
        manifest.find(root, "ingest")
    _publish(root, "ingest", "one", items=0)
    files.write_text(uri, files.read_text(uri).replace('"format": 2', '"format": 3'))
    with pytest.raises(InputError, match="has format 3, this version reads up to 2"):
        manifest.find(root, "ingest")
