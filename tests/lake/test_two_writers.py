"""Two processes write to one table at once: numbers stay distinct, versions are each one's own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qarm.errors import ConflictError
from qarm.lake.tables import Lake, TableRef
from schemas.table import Table, col
from tests.sessions import FEW_PARTITIONS

REGISTRY = Table(
    name="registry",
    comment="Numbers of ids",
    columns=(col("id", "string", "Id"), col("number", "bigint", "Dense, from 0")),
    key=("id",),
)


def draw(lake: Lake) -> int:
    """The version from which numbers are drawn."""
    return lake.version(REGISTRY.name)


def write(lake: Lake, drawn_at: int, names: list[str]) -> TableRef:
    """Number the names after those of version ``drawn_at``."""
    first = 0
    if drawn_at >= 0:
        first = lake.read(TableRef(REGISTRY.name, lake.path(REGISTRY.name), drawn_at)).count()
    rows = [(name, first + n) for n, name in enumerate(names)]
    df = lake.spark.createDataFrame(rows, "id string, number bigint")
    return lake.merge(REGISTRY, df, {"stage": "test"}, drawn_at=drawn_at)


def other_writer(root: str) -> None:
    """Obey one line of JSON at a time: draw, or write names; answer with a version or conflict."""
    from qarm.session import open_session

    session = open_session("other", master="local[1]", settings=FEW_PARTITIONS)
    lake, drawn_at = Lake(session, root), -1
    print("READY", flush=True)
    for line in sys.stdin:
        names = json.loads(line)
        try:
            if names is None:
                answer = drawn_at = draw(lake)
            else:
                answer = write(lake, drawn_at, names).version
        except ConflictError:
            answer = "conflict"
        print("ANSWER", json.dumps(answer), flush=True)


class Other:
    """The other process."""

    def __init__(self, root: str) -> None:
        command = [sys.executable, "-m", "tests.lake.test_two_writers", root]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        self.wait_for("READY")

    def wait_for(self, mark: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(mark):
                return line[len(mark) :]
        raise AssertionError("the other process has ended")

    def ask(self, names: list[str] | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(names) + "\n")
        self.process.stdin.flush()

    def answer(self) -> int | str:
        return json.loads(self.wait_for("ANSWER"))


@pytest.fixture
def other(lake: Lake) -> Iterator[Other]:
    started = Other(lake.root)
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.mark.fire
def test_numbers_are_distinct_and_versions_are_the_writers_own(lake: Lake, other: Other) -> None:
    expected: dict[str, int] = {}

    def check(version: int | str, names: list[str]) -> None:
        """The version is that of the commit that added the names, and nothing is lost."""
        expected.update({name: len(expected) + n for n, name in enumerate(names)})
        assert isinstance(version, int)
        ref = TableRef(REGISTRY.name, lake.path(REGISTRY.name), version)
        assert {r["id"]: r["number"] for r in lake.read(ref).collect()} == expected

    # The first writer of all creates the table; the second drew its numbers from nothing.
    other.ask(None)
    assert other.answer() == -1
    check(write(lake, draw(lake), ["a"]).version, ["a"])
    other.ask(["b"])
    assert other.answer() == "conflict"
    # Both draw; one writes while the other waits; the one that waited must draw again.
    for turn, first in enumerate(["ours", "theirs"]):
        ours, theirs = [f"ours-{turn}", f"both-{turn}"], [f"theirs-{turn}"]
        drawn_at = draw(lake)
        other.ask(None)
        assert other.answer() == drawn_at
        if first == "ours":
            check(write(lake, drawn_at, ours).version, ours)
            other.ask(theirs)
            assert other.answer() == "conflict"
        else:
            other.ask(theirs)
            check(other.answer(), theirs)
            with pytest.raises(ConflictError, match=r"has written to .*/registry while"):
                write(lake, drawn_at, ours)
    # Both write at the same moment: at most one gets through.
    for turn in range(5):
        drawn_at = draw(lake)
        other.ask(None)
        other.answer()
        ours, theirs = [f"o{turn}"], [f"t{turn}"]
        other.ask(theirs)
        time.sleep(0.3 * turn)
        try:
            mine: int | str = write(lake, drawn_at, ours).version
        except ConflictError:
            mine = "conflict"
        answered = other.answer()
        assert (mine, answered).count("conflict") == 1, (mine, answered)
        check(*((answered, theirs) if mine == "conflict" else (mine, ours)))


def test_the_version_of_a_commit_is_its_own(lake: Lake, monkeypatch) -> None:
    """Another writer commits between a commit and the look for its version."""
    rows = lake.spark.createDataFrame([("a", 0)], "id string, number bigint")
    other = lake.spark.newSession()  # with settings of its own, such as a commit's metadata
    twice = other.createDataFrame([("a", 0), ("b", 1)], "id string, number bigint")
    first = lake.overwrite(REGISTRY, rows, {"stage": "test"})
    version, calls = Lake.version, []

    def late(self, name):
        calls.append(name)
        if len(calls) == 2:  # after the commit of what is written below
            twice.write.format("delta").mode("overwrite").save(lake.path(name))
        return version(self, name)

    monkeypatch.setattr(Lake, "version", late)
    second = lake.overwrite(REGISTRY, rows, {"stage": "test"})
    assert second.version == first.version + 1
    assert version(lake, REGISTRY.name) == first.version + 2
    assert lake.read(second).count() == 1


if __name__ == "__main__":
    other_writer(sys.argv[1])
