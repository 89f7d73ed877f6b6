"""Temporary folders: of this user alone, and gone after kill -9 of their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from qarm.errors import StorageError
from qarm.temporary import check_own, in_use, remove_abandoned, temporary_folder

HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from qarm.temporary import temporary_folder
with temporary_folder("environment") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def age(folder: str | Path, seconds: float) -> None:
    before = os.stat(folder).st_mtime - seconds
    os.utime(folder, (before, before))


def test_gone_at_the_end_and_for_this_user_alone() -> None:
    with temporary_folder("wheel") as folder:
        assert os.stat(folder).st_mode & 0o777 == 0o700
        check_own(folder)
        age(folder, 1000)
        remove_abandoned()
        assert os.path.isdir(folder)  # it is in use
    assert not os.path.exists(folder)


def test_a_killed_process_leaves_one_that_the_next_start_removes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        folder = process.stdout.readline().strip()
        age(folder, 1000)
        remove_abandoned()
        assert os.path.isdir(folder)
        process.send_signal(signal.SIGKILL)
    assert os.path.isdir(folder)
    age(folder, 1000)
    with temporary_folder("environment"):
        assert not os.path.exists(folder)


def test_what_is_young_or_no_folder_of_ours_stays(tmp_path: Path) -> None:
    for name in ("qarm-items-1", "qarm-wheel-1", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "qarm-link").symlink_to(tmp_path / "other")
    (tmp_path / "qarm-x.trace.txt").write_text("")
    age(tmp_path / "other", 10_000)
    age(tmp_path / "qarm-items-1", 10_000)  # a killed training may resume with it today
    remove_abandoned()
    assert len(list(tmp_path.iterdir())) == 5
    age(tmp_path / "qarm-items-1", 100_000)
    age(tmp_path / "qarm-wheel-1", 100)
    with in_use(str(tmp_path / "qarm-wheel-1")):
        remove_abandoned()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("other", "qarm-link", "qarm-wheel-1", "qarm-x.trace.txt"),
    ]


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    check_own(str(tmp_path / "own"))
    for name in ("shared", "link"):
        with pytest.raises(StorageError, match=f"{name} is not a folder that only this user"):
            check_own(str(tmp_path / name))
