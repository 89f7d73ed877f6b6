"""Processes of one machine that end together."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from qarm.training.processes import Ended, run_processes

SCRIPT = """
import os, sys, time
rank = int(os.environ["RANK"])
print("progress: half", flush=True)
print("x" * 5000, flush=True)
if rank == int(sys.argv[1]):
    os.kill(os.getpid(), 9) if sys.argv[2] == "9" else sys.exit(int(sys.argv[2]))
time.sleep(float(sys.argv[3]))
"""


def run(path: Path, *arguments: str) -> Ended | None:
    environments = [{**os.environ, "RANK": str(rank)} for rank in range(3)]
    with path.open("w") as log:
        return run_processes([sys.executable, "-c", SCRIPT, *arguments], environments, log)


def test_all_lines_are_logged_with_their_rank_and_progress_is_shown(tmp_path, capsys) -> None:
    assert run(tmp_path / "log", "5", "0", "0") is None
    lines = (tmp_path / "log").read_text().splitlines()
    line = "x" * 5000
    each = [f"[{rank}] {text}" for rank in range(3) for text in ("progress: half", line)]
    assert sorted(lines) == sorted(each)
    assert capsys.readouterr().err.count("half") == 3


def test_one_that_fails_ends_the_others_and_is_named(tmp_path) -> None:
    begin = time.monotonic()
    assert run(tmp_path / "log", "1", "7", "60") == Ended(1, 7)
    killed = run(tmp_path / "log", "2", "9", "60")
    assert killed == Ended(2, -9)
    assert killed.how == "killed by signal 9"
    assert time.monotonic() - begin < 40
