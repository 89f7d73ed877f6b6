"""Two processes ingest into one lake at once: nothing is lost, numbers stay dense and distinct."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from qarm.config import Config
from qarm.errors import ConflictError
from qarm.lake import manifest
from qarm.lake.tables import Lake, TableRef
from qarm.pipeline.runner import run_stage
from qarm.pipeline.stages import stage
from schemas import Table
from tests.sessions import FEW_PARTITIONS

#: Tables before whose commit the other runs: a registry, and one that is overwritten whole.
STEPS = ("users", "event_splits")


def ingest(spark: SparkSession, lake: str, log: str) -> dict[str, Any] | str:
    """Ingest a log, from which the catalogue is made too; the manifest as JSON, or ``conflict``."""
    source = {"path": [log], "user": "user", "item": "item", "time": "t", "time_format": "epoch_s"}
    sections = {"items": {"from_log": True, "id": "item"}, "gates": {"max_quarantine_share": 0.2}}
    config = Config.model_validate({"lake": lake, "log": source, **sections})
    try:
        entry = run_stage(stage("ingest"), config, spark, force=True)
    except ConflictError:
        return "conflict"
    return {"run_id": entry["run_id"], "outputs": entry["outputs"]}


def other_process(lake: str, log: str) -> None:
    """Ingest once for every line on stdin, and answer with what came of it."""
    from qarm.session import open_session

    session = open_session("other", master="local[1]", settings=FEW_PARTITIONS)
    print("READY", flush=True)
    for _ in sys.stdin:
        print("ANSWER", json.dumps(ingest(session, lake, log)), flush=True)


class Other:
    """The other process."""

    def __init__(self, lake: str, log: str) -> None:
        command = [sys.executable, "-m", "tests.stages.test_two_ingests", lake, log]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip

    def wait_for(self, mark: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(mark):
                return line[len(mark) :]
        raise AssertionError("the other process has ended")

    def ingest(self) -> dict[str, Any] | str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.wait_for("ANSWER"))


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    """Our log and the other's: users and items that both know, and a row without a user."""
    paths = (tmp_path / "ours.csv", tmp_path / "theirs.csv")
    rows = "".join(f"u{n % 3},i{n},{1_600_000_000 + n}\n" for n in range(9))
    for path in paths:
        path.write_text(f"user,item,t\n,i0,1600000000\n{rows}")
    return paths


@pytest.fixture
def other(lake: Lake, logs: tuple[Path, Path]) -> Iterator[Other]:
    started = Other(lake.root, str(logs[1]))
    started.wait_for("READY")
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.mark.spark
@pytest.mark.fire
def test_another_ingest_before_a_commit(
    lake: Lake, logs: tuple[Path, Path], other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other ingest runs as a whole just before one of our commits, each in its turn."""
    step, theirs = "", []

    def before(write: Any) -> Any:
        def late(self: Lake, table: Table, *args: Any, **kwargs: Any) -> TableRef:
            if table.name == step and not theirs:
                theirs.append(other.ingest())
            return write(self, table, *args, **kwargs)

        return late

    for name in ("overwrite", "merge"):
        monkeypatch.setattr(Lake, name, before(getattr(Lake, name)))
    expected: dict[str, set[str]] = {"user": {f"u{n}" for n in range(3)}}
    expected["item"] = {f"i{n}" for n in range(9)}
    for turn, step in enumerate(STEPS):
        for path, owner in zip(logs, ("o", "t"), strict=True):
            with path.open("a") as log:
                log.write(f"{owner}{turn},{owner}i{turn},{1_600_000_100 + turn}\n")
            expected["user"].add(f"{owner}{turn}")
            expected["item"].add(f"{owner}i{turn}")
        theirs.clear()
        ours = ingest(lake.spark, lake.root, str(logs[0]))
        # Numbers are drawn from what was read first; other tables hold one log as a whole.
        assert (ours == "conflict") == (step in ("users", "items")), step
        if ours == "conflict":
            ours = ingest(lake.spark, lake.root, str(logs[0]))
        for kind, ids in expected.items():
            ref = TableRef(f"{kind}s", lake.path(f"{kind}s"), lake.version(f"{kind}s"))
            rows = lake.read(ref).select(f"{kind}_id", f"{kind}_idx").collect()
            assert {row[0] for row in rows} == ids
            assert sorted(row[1] for row in rows) == list(range(len(ids)))
        assert isinstance(ours, dict)
        current = manifest.find(lake.root, "ingest")
        assert current is not None
        assert current.run_id == ours["run_id"]
        check_own_commits(lake, ours, f"o{turn}", f"t{turn}")
        check_own_commits(lake, theirs[0], f"t{turn}", f"o{turn}")


def check_own_commits(lake: Lake, run: dict[str, Any], own: str, foreign: str) -> None:
    """The versions that a run has published hold its own log."""
    for name in ("interactions", "event_splits", "quarantine"):
        ref = TableRef(name, lake.path(name), run["outputs"][name])
        commit = Path(ref.path) / "_delta_log" / f"{ref.version:020d}.json"
        (info,) = [json.loads(x) for x in commit.read_text().splitlines() if "commitInfo" in x]
        assert json.loads(info["commitInfo"]["userMetadata"])["run_id"] == run["run_id"]
    ref = TableRef("interactions", lake.path("interactions"), run["outputs"]["interactions"])
    users = {row[0] for row in lake.read(ref).select("user_id").distinct().collect()}
    assert own in users
    assert foreign not in users


if __name__ == "__main__":
    other_process(*sys.argv[1:])
