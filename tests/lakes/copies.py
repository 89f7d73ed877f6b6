"""Copies of a lake that was prepared once, for tests that go on from there."""

from __future__ import annotations

import shutil
from pathlib import Path

from qarm.lake.tables import Lake


def copy_lake(source: Lake, to: Lake) -> None:
    """Copy all files of ``source``; the manifests of the copy name its own tables and files."""
    shutil.copytree(source.root, to.root, dirs_exist_ok=True)
    for path in Path(to.root, "manifests").rglob("*.json"):
        path.write_text(path.read_text().replace(f"{source.root}/", f"{to.root}/"))
