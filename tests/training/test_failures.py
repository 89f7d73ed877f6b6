"""Errors that ranks leave, and which of them is the cause."""

from __future__ import annotations

import json
import threading
import time

import pytest

from qarm.errors import InputError
from qarm.training import failures
from qarm.training.collectives import RankLostError


@pytest.fixture
def work_dir(tmp_path) -> str:
    return f"{tmp_path}/work"


def test_the_first_cause_comes_first_and_consequences_last(work_dir, monkeypatch) -> None:
    clock = iter([10.0, 30.0, 20.0])
    monkeypatch.setattr(failures.time, "time", lambda: next(clock))
    # The rank that only lost another one may well be the first to write.
    failures.record(work_dir, 0, RankLostError("gather failed"), "trace 0")
    failures.record(work_dir, 1, ZeroDivisionError("later"), "trace 1")
    failures.record(work_dir, 3, InputError("column x"), "trace 3")
    read = failures.read(work_dir, 4)
    assert [failure.rank for failure in read] == [3, 1, 0]
    assert read[0] == failures.Failure(
        rank=3,
        time=20.0,
        type="InputError",
        is_ours=True,
        is_consequence=False,
        message="column x",
        traceback="trace 3",
    )
    assert [failure.is_ours for failure in read] == [True, False, True]
    assert [failure.is_consequence for failure in read] == [False, False, True]


def test_ranks_outside_the_world_are_not_read(work_dir) -> None:
    failures.record(work_dir, 5, ValueError("of a larger world"), "")
    assert failures.read(work_dir, 5) == []
    assert [failure.rank for failure in failures.read(work_dir, 6)] == [5]


def test_an_error_is_replaced_and_cleared(work_dir) -> None:
    failures.clear(work_dir, 2)  # nothing is there yet
    for message in ("first attempt", "second attempt"):
        failures.record(work_dir, 1, ValueError(message), "")
    assert [failure.message for failure in failures.read(work_dir, 2)] == ["second attempt"]
    failures.clear(work_dir, 2)
    assert failures.read(work_dir, 2) == []


def test_the_file_is_plain_json(work_dir) -> None:
    failures.record(work_dir, 0, OSError("disk „full“"), "Traceback\n  line")
    with open(f"{work_dir}/{failures.file_of(0)}", encoding="utf-8") as file:
        fields = json.load(file)
    assert fields["type"] == "OSError"
    assert fields["message"] == "disk „full“"
    assert fields["traceback"] == "Traceback\n  line"


def test_silent_ranks(work_dir) -> None:
    assert failures.silent(work_dir, 2, seconds=0) == [0, 1], "there is no folder"
    failures.record(work_dir, 1, ValueError("x"), "")
    assert failures.silent(work_dir, 3, seconds=0) == [0, 2]


def test_silent_waits_for_a_rank_that_is_late(work_dir) -> None:
    failures.record(work_dir, 0, ValueError("x"), "")
    late = threading.Timer(0.1, failures.record, (work_dir, 1, ValueError("late"), ""))
    begin = time.monotonic()
    late.start()
    assert failures.silent(work_dir, 2, seconds=60) == []
    assert time.monotonic() - begin < 30, "it returns as soon as all ranks have written"
    late.join()


def test_names_of_ranks() -> None:
    assert failures.named([1]) == "rank 1"
    assert failures.named([1, 3]) == "ranks 1, 3"
