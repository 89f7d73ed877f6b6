"""Temporary folders: readable by this user only, removed at the end, or else by a later start."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qarm.errors import StorageError

PREFIX = "qarm-"
#: A folder without an owner that runs is removed after this time; younger ones may be starting, or
#: belong to a training that is about to resume.
ABANDONED_SECONDS = {"items": 86_400.0, "": 60.0}


@contextmanager
def temporary_folder(kind: str) -> Iterator[str]:
    """A new folder for this block; also removes those that killed processes have left.

    Args:
        kind: a word for its name.
    """
    remove_abandoned()
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-")  # mode 0700
    with in_use(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def in_use(folder: str) -> Iterator[None]:
    """Keep ``remove_abandoned`` of all processes away from the folder; ends with this process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def check_own(folder: str) -> None:
    """Check that a folder of predictable name is a folder of this user alone.

    Raises:
        StorageError: it is another user's, a link, or others may write to it.
    """
    about = os.lstat(folder)
    ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
    if not ours or about.st_mode & 0o077:
        raise StorageError(
            f"{folder} is not a folder that only this user can read and write; somebody else may "
            "have made it: remove it, or set TMPDIR to a folder of your own"
        )


def remove_abandoned() -> None:
    """Remove this user's temporary folders that no process uses any more."""
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        if name.startswith(PREFIX) and os.path.isdir(path) and not os.path.islink(path):
            with suppress(OSError):  # another process was faster, or still uses it
                _remove_if_abandoned(path, name.removeprefix(PREFIX).split("-")[0])


def _remove_if_abandoned(path: str, kind: str) -> None:
    about = os.lstat(path)
    age = time.time() - about.st_mtime
    if about.st_uid != os.geteuid() or age < ABANDONED_SECONDS.get(kind, ABANDONED_SECONDS[""]):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    finally:
        os.close(handle)
