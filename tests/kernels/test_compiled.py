"""Kernels run from a zip, as they do on executors that got the package by --py-files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import qarm.kernels.compiled

KERNEL = """
from qarm.kernels.compiled import compiled

@compiled
def twice(x):
    return 2 * x
"""

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from qarm.pairs import kernel
assert ".zip/" in kernel.__file__, kernel.__file__
assert kernel.twice(3) == 6
"""


@pytest.mark.parametrize("home", ["writable", "none"])
def test_kernels_run_from_a_zip_wherever_the_cache_can_lie(tmp_path, home):
    package = Path(qarm.kernels.compiled.__file__).parents[1]
    archive = tmp_path / "qarm.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("__init__", "pairs/__init__", "pairs/compiled"):
            file.write(package / f"{name}.py", f"qarm/{name}.py")
        file.writestr("qarm/pairs/kernel.py", KERNEL)
    folder = "/dev/null" if home == "none" else str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(archive)],
        env={"HOME": folder, "XDG_CACHE_HOME": folder, "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


COUNTED = (
    PROGRAM
    + """
print(sum(kernel.twice.stats.cache_hits.values()), kernel.twice.stats.cache_path)
"""
)


def test_a_zip_elsewhere_finds_the_machine_code_of_equal_source(tmp_path):
    """Spark puts ``--py-files`` into another folder for each application."""
    package = Path(qarm.kernels.compiled.__file__).parents[1]
    seen = []
    for number, kernel in enumerate((KERNEL, KERNEL, KERNEL + "# changed")):
        folder = tmp_path / f"application-{number}"
        folder.mkdir()
        with zipfile.ZipFile(folder / "qarm.zip", "w") as file:
            for name in ("__init__", "pairs/__init__", "pairs/compiled"):
                file.write(package / f"{name}.py", f"qarm/{name}.py")
            file.writestr("qarm/pairs/kernel.py", kernel)
        done = subprocess.run(
            [sys.executable, "-c", COUNTED, str(folder / "qarm.zip")],
            env={"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PATH": ""},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        seen.append(done.stdout.split())
    hits, places = zip(*seen, strict=True)
    assert hits == ("0", "1", "0")
    assert places[0] == places[1] != places[2]
