"""A store that fails one request in fifty: a sentence each time, and in the end the same tables."""

from __future__ import annotations

import itertools

import pytest

from qarm.errors import StorageError, plain_errors
from qarm.lake import files
from tests.lakes.codes import World, catalogue

pytestmark = [pytest.mark.spark, pytest.mark.fire]
STAGES = ("fit-codebooks", "assign-codes")


def test_the_same_commands_again_give_the_same_codes(coded_lake, make_world, monkeypatch) -> None:
    """Fault injected: every fiftieth request to the file system raises."""
    flaky = make_world()
    calm = World(flaky.spark, coded_lake, flaky.config)
    flaky.vectors(catalogue())
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
