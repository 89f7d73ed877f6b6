"""A driver that is interrupted, killed or without disk, and the same command once more.

Real processes of the command line; see docs/reliability.md for the faults that other tests inject.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from qarm.config import load
from qarm.lake import manifest
from qarm.pipeline.runner import run_stage
from qarm.pipeline.stages import stage
from schemas import TABLES
from tests.sessions import FEW_PARTITIONS

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.fire]
WRITTEN = ("items", "users", "interactions", "event_splits", "quarantine")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A log of 300 rows, two of them for quarantine, and a catalogue."""
    rows = [f"u{n % 40},i{n * 7 % 30},{1_700_000_000 + n}" for n in range(298)]
    (tmp_path / "log.csv").write_text(
        "\n".join(["user_id,item_id,ts", *rows, ",i1,1700000000", "u1,i2,soon"])
    )
    lines = [f"i{n},title {n}" for n in range(30)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *lines]))
    path = tmp_path / "fire.toml"
    settings = "".join(f'"{name}" = "{value}"\n' for name, value in FEW_PARTITIONS.items())
    path.write_text(
        '[log]\npath = ["log.csv"]\ntime_format = "epoch_s"\n'
        '[items]\npath = ["items.csv"]\ntitle = "title"\n'
        f"[spark]\n{settings}"
    )
    return path


def start(config: Path, lake: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qarm.cli", "ingest", "--config", str(config)]
    command += ["--lake", str(lake), "--master", "local[2]"]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, bufsize=1
    )


def until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Lines that it prints, up to the one with ``words``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"ended without {words!r}: {lines[-5:]}")


def contents(spark, root: str, table: str) -> list[str]:
    ref = manifest.pinned(root, table)
    assert ref is not None
    rows = spark.read.format("delta").option("versionAsOf", ref.version).load(ref.path)
    rows = rows.drop("run_id") if table == "quarantine" else rows
    assert set(rows.columns) <= set(TABLES[table].column_names)
    return sorted(str(row) for row in rows.collect())


def test_interrupted_then_killed_then_run_again(spark, config: Path, tmp_path: Path) -> None:
    """Ctrl-C is a sentence; kill -9 between commits; the rerun gives the tables of a calm run."""
    lake = tmp_path / "fire"
    process = start(config, lake)
    until(process, "log rows")
    time.sleep(1)  # into a Spark job
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    (ours,) = (line for line in rest.splitlines() if line.startswith("qarm:"))  # Java says more
    assert ours.startswith("qarm: interrupted; run the same command")
    assert "Traceback" not in rest

    process = start(config, lake)
    children = psutil.Process(process.pid)
    until(process, "log rows")
    deadline = time.monotonic() + 120
    while not list((lake / "tables" / "items").glob("_delta_log/*1.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for each in [*children.children(recursive=True), children]:
        each.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert manifest.find(str(lake), "ingest") is None  # nothing is published

    for root in (lake, tmp_path / "calm"):
        entry = run_stage(stage("ingest"), load(str(config), [f'lake="{root}"']), spark)
        assert (entry["rows_in"], entry["rows_out"]) == (300, 298)
    for table in WRITTEN:
        assert contents(spark, str(lake), table) == contents(spark, str(tmp_path / "calm"), table)


def test_a_full_disk_and_the_same_command_with_room(spark, config: Path, small_disk: Path) -> None:
    filler = small_disk / "filler"  # room for a part of the first table
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 16_384))
    process = start(config, small_disk / "lake")
    printed = process.communicate(timeout=200)[1]
    assert process.returncode == 1
    assert "No space left on device. Make room, then run the same command again" in printed
    assert "Traceback" not in printed
    assert manifest.find(str(small_disk / "lake"), "ingest") is None
    filler.unlink()
    more = ["mount", "-o", "remount,size=50m", str(small_disk)]
    subprocess.run(more, check=True)
    entry = run_stage(stage("ingest"), load(str(config), [f'lake="{small_disk}/lake"']), spark)
    assert (entry["rows_in"], entry["rows_out"]) == (300, 298)
