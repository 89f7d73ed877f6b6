"""Arrays that the ranks of a node map: written once, complete or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from qarm.errors import InputError
from qarm.training import collectives
from qarm.training.item_arrays import ArrayFolder, as_matrix, open_arrays, record_batches


@dataclass(frozen=True)
class About:
    """What the arrays follow from."""

    rows: int = 4


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def fill(arrays: ArrayFolder) -> None:
    """Three arrays."""
    arrays.create("part", (4, 2), np.int32, fill=-1)[1] = 7
    arrays.create("none", (4, 0), np.float32)
    arrays.save("whole", np.arange(3))


def test_arrays_are_mapped_and_removed_at_the_end(temporary: Path) -> None:
    with open_arrays("a", About(), fill) as arrays:
        assert isinstance(arrays["part"], np.memmap)
        assert not arrays["part"].flags.writeable
        assert arrays["part"].tolist() == [[-1, -1], [7, 7], [-1, -1], [-1, -1]]
        assert (arrays["none"].shape, arrays["none"].dtype) == ((4, 0), np.float32)
        assert arrays["whole"].tolist() == [0, 1, 2]
        assert len(list(temporary.iterdir())) == 1
    assert not list(temporary.iterdir())


def test_what_a_killed_run_left_complete_is_taken_by_the_same_training_alone() -> None:
    def refuse(arrays: ArrayFolder) -> None:
        raise AssertionError("they are there")

    killed = open_arrays("a", About(), fill)
    killed.__enter__()
    with open_arrays("a", About(), refuse) as arrays:
        assert arrays["whole"].tolist() == [0, 1, 2]
    for owner, about in (("b", About()), ("a", About(5))):
        with pytest.raises(AssertionError, match="they are there"):
            open_arrays(owner, about, refuse).__enter__()


def test_nothing_half_written_stays(temporary: Path) -> None:
    def fail(arrays: ArrayFolder) -> None:
        fill(arrays)
        raise InputError("the tables do not fit")

    with pytest.raises(InputError, match="do not fit"):
        open_arrays("a", About(), fail).__enter__()
    assert not list(temporary.iterdir())


def test_other_ranks_of_the_node_wait_for_the_first(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the second rank: the first writes the arrays while it is in the barrier."""
    first = open_arrays("a", About(), fill)
    monkeypatch.setattr(collectives, "local_rank", lambda: 1)

    def barrier() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(collectives, "local_rank", lambda: 0)
            patched.setattr(collectives, "barrier", lambda: None)
            first.__enter__()

    monkeypatch.setattr(collectives, "barrier", barrier)
    with open_arrays("a", About(), fill) as arrays:
        assert arrays["whole"].tolist() == [0, 1, 2]
    assert len(list(temporary.iterdir())) == 1, "the first rank removes them"


def test_lists_of_one_length_become_a_matrix(temporary: Path) -> None:
    path = str(temporary / "lists.parquet")
    lists = pa.array([[1, 2], [3, 4], None, [5]], pa.list_(pa.int32()))
    parquet.write_table(pa.table({"other": range(4), "lists": lists}), path)
    (batch,) = record_batches([path], ["lists"])
    column = batch.column("lists")
    assert batch.schema.names == ["lists"]
    assert as_matrix(column[:2], 2, "codes").tolist() == [[1, 2], [3, 4]]
    with pytest.raises(InputError, match="codes: all lists must have length 2, nan was seen"):
        as_matrix(column[:3], 2, "codes")
    with pytest.raises(InputError, match=r"codes: all lists must have length 2, 1(\.0)? was seen"):
        as_matrix(column[3:], 2, "codes")
