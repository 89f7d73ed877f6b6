"""A store that fails one request in fifty: a sentence each time, and in the end the same tables."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from qarm.config import Config
from qarm.errors import StorageError, plain_errors
from qarm.lake import files
from qarm.lake.tables import Lake
from tests.lakes.codes import SMALL, World, unit_vectors

pytestmark = [pytest.mark.spark, pytest.mark.fire]
STAGES = ("fit-codebooks", "assign-codes")
VECTORS = {f"i{n}": v for n, v in enumerate(unit_vectors(60))}


def world_at(spark, root: Path) -> World:
    world = World(
        spark, Lake(spark, str(root)), Config.model_validate({"lake": str(root), "codes": SMALL})
    )
    world.vectors(VECTORS)
    return world


def test_the_same_commands_again_give_the_same_codes(spark, tmp_path, monkeypatch) -> None:
    """Fault injected: every fiftieth request to the file system raises."""
    calm, flaky = world_at(spark, tmp_path / "calm"), world_at(spark, tmp_path / "flaky")
    for name in STAGES:
        calm.run(name)
    requests, failures, open_fs = itertools.count(1), [], files._open_fs

    def fails(uri: str):
        if not next(requests) % 50:
            raise OSError("503 Slow Down")
        return open_fs(uri)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_open_fs", fails)
        for name in STAGES:
            while True:
                try:
                    with plain_errors():
                        flaky.run(name)
                    break
                except StorageError as error:
                    failures.append(str(error))
    assert failures
    assert all("503 Slow Down" in text and "same command again" in text for text in failures)
    columns = ["item_id", "rq", "vq", "residual_error"]
    ours, theirs = (
        sorted(map(tuple, world.table("semantic_ids").select(*columns).collect()))
        for world in (calm, flaky)
    )
    assert ours == theirs
