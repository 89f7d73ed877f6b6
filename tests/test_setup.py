"""The set-up scripts: a machine that lacks something, and the cache of built wheels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = "bash sh env sed head cat dirname ld as"


def _run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [shutil.which("bash") or "bash", ROOT / "scripts" / script, *arguments],
        env={"PYTHON": sys.executable, **environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def _path(folder: Path, *names: str) -> str:
    """A PATH that holds the named commands and what the scripts themselves use."""
    folder.mkdir()
    for name in [*TOOLS.split(), *names]:
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    return str(folder)


def test_a_complete_machine_passes_and_names_its_python(tmp_path: Path) -> None:
    done = _run("check_system.sh", PATH=_path(tmp_path / "bin", "java", "g++", "make"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sys.executable


@pytest.mark.parametrize(
    ("lacking", "install"),
    [
        ("java", "apt-get install openjdk-17-jdk-headless"),
        ("g++", "dnf install gcc-c++"),
        ("make", "apt-get install make"),
    ],
)
def test_what_is_missing_is_named_with_its_command(
    tmp_path: Path, lacking: str, install: str
) -> None:
    present = {"java", "g++", "make"} - {lacking}
    done = _run("check_system.sh", PATH=_path(tmp_path / "bin", *present))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("missing: ") == 1
    assert install in done.stderr


def test_a_machine_with_nothing_hears_of_all_at_once(tmp_path: Path) -> None:
    done = _run("check_system.sh", PATH=_path(tmp_path / "bin"), PYTHON="python3.9")
    assert done.returncode == 1
    assert done.stderr.count("missing: ") == 4
    assert "apt-get install python3.11 python3.11-venv python3.11-dev" in done.stderr


def _sdist(folder: Path, gloo: bool) -> Path:
    """A pure-Python sdist in Horovod's place: the cache is tested here, not the compiler."""
    source = folder / "horovod-0.28.1"
    (source / "horovod" / "torch").mkdir(parents=True)
    (source / "horovod" / "__init__.py").touch()
    (source / "horovod" / "torch" / "__init__.py").write_text(
        f"def init(): pass\ndef shutdown(): pass\ndef gloo_built(): return {gloo}\n"
    )
    (source / "setup.py").write_text(
        textwrap.dedent(
            """
            from setuptools import setup
            setup(name="horovod", version="0.28.1", packages=["horovod", "horovod.torch"])
            """
        )
    )
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: horovod\nVersion: 0.28.1\n")
    with tarfile.open(folder / "horovod-0.28.1.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    return folder


@pytest.mark.parametrize("gloo", [True, False], ids=["sound", "broken"])
def test_only_a_wheel_that_works_stays_in_the_cache(tmp_path: Path, gloo: bool) -> None:
    variables = {
        "PATH": os.environ["PATH"],
        "QARM_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    source = str(_sdist(tmp_path / "sdist", gloo))
    built = _run("build_horovod.sh", sys.executable, PIP_FIND_LINKS=source, **variables)
    cached = list((tmp_path / "cache").rglob("*.whl"))
    if not gloo:
        assert built.returncode == 1
        assert "AssertionError" in built.stderr
        assert "did not build" in built.stderr
        assert cached == []
        return
    assert built.returncode == 0, built.stderr
    assert cached == [Path(built.stdout.strip())]
    assert "torch-" in cached[0].parent.name
    # The second time, without any source to build from; other GPU settings are another wheel.
    again = _run("build_horovod.sh", sys.executable, **variables)
    assert (again.returncode, again.stdout) == (0, built.stdout)
    other = _run("build_horovod.sh", sys.executable, HOROVOD_GPU_OPERATIONS="NCCL", **variables)
    assert other.returncode == 1
