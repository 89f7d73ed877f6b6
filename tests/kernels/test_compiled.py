"""Kernels from a folder, a zip and a wheel: where machine code is cached, and when it is valid."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import qarm
from qarm.kernels.compiled import FINITE, compiled

PACKAGE = Path(qarm.__file__).parent
KERNEL = """
from qarm.kernels.compiled import FINITE, compiled

@compiled
def twice(x):
    return 2 * x

@compiled(fastmath=FINITE)
def thrice(x):
    return twice(x) + x
"""

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from qarm.kernels import probe
assert probe.__file__.startswith(sys.argv[1]), probe.__file__
assert probe.thrice(3) == 9
print(sum(probe.thrice.stats.cache_hits.values()), probe.thrice.stats.cache_path)
"""

REAL = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from qarm.kernels.block_lists import code_items
from qarm.kernels.microkernel import fold_level
from qarm.kernels.nearest import nearest
assert nearest.__code__.co_filename.startswith(sys.argv[1])
x = np.eye(3, dtype=np.float32)
assert nearest(x, x)[0].tolist() == [0, 1, 2]
code_items(np.zeros((3, 3), np.int64), 3)
for kernel in (code_items, fold_level):
    stats = kernel.stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def pack(archive: Path, **extra: str) -> Path:
    """A wheel of the kernels, and further modules of qarm.kernels."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in [PACKAGE / "__init__.py", PACKAGE / "errors.py", *PACKAGE.glob("kernels/*.py")]:
            file.write(path, f"qarm/{path.relative_to(PACKAGE)}")
        for name, source in extra.items():
            file.writestr(f"qarm/kernels/{name}.py", source)
    return archive


def run(program: str, archive: Path, home: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, str(archive)],
        env={"HOME": home, "XDG_CACHE_HOME": home, "PATH": ""},
        cwd=archive.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_without_a_folder_that_can_be_written_each_process_compiles(tmp_path) -> None:
    archive = pack(tmp_path / "qarm.zip", probe=KERNEL)
    assert run(PROGRAM, archive, "/dev/null") == ["0", "None"]


@pytest.mark.parametrize("name", ["qarm.zip", "qarm-1.0-py3-none-any.whl"])
def test_an_equal_archive_elsewhere_finds_the_machine_code(tmp_path, name) -> None:
    """Spark copies ``--py-files`` into a new folder for each application.

    A change of any kernel, not just of the one that is called, makes cached code invalid.
    """
    seen = []
    for number, other in enumerate(("", "", "# changed")):
        archive = pack(tmp_path / str(number) / name, probe=KERNEL, other=other)
        seen.append(run(PROGRAM, archive, str(tmp_path)))
    hits, places = zip(*seen, strict=True)
    assert hits == ("0", "1", "0")
    assert places[0] == places[1] != places[2]


def test_kernels_of_pairs_and_of_codes_are_compiled_once(tmp_path) -> None:
    first = run(REAL, pack(tmp_path / "1" / "qarm.zip"), str(tmp_path))
    second = run(REAL, pack(tmp_path / "2" / "qarm.zip"), str(tmp_path))
    assert first == ["0", "1", "0", "1"]  # hits and misses of each kernel
    assert second == ["1", "0", "1", "0"]


def test_in_a_folder_the_code_lies_beside_the_source_and_follows_all_kernels(tmp_path) -> None:
    folder = tmp_path / "qarm"
    (folder / "kernels").mkdir(parents=True)
    for path in [PACKAGE / "__init__.py", PACKAGE / "errors.py", *PACKAGE.glob("kernels/*.py")]:
        shutil.copy(path, folder / path.relative_to(PACKAGE))
    (folder / "kernels" / "probe.py").write_text(KERNEL)
    home = str(tmp_path)
    assert run(PROGRAM, tmp_path, home) == ["0", str(folder / "kernels" / "__pycache__")]
    assert run(PROGRAM, tmp_path, home)[0] == "1"
    with open(folder / "kernels" / "placement.py", "a") as file:
        file.write("# changed\n")
    assert run(PROGRAM, tmp_path, home)[0] == "0"


BRUTE = """
import sys
import numpy as np
from qarm.codes.anchors import nearest_k
from qarm.kernels.microkernel import LANES, MR
from qarm.kernels.nearest import nearest
rng = np.random.default_rng(0)
x = rng.standard_normal((301, 19)).astype(np.float32)
c = rng.standard_normal((77, 19)).astype(np.float32)
wide = ((x[:, None].astype(np.float64) - c[None]) ** 2).sum(-1)
assert (nearest(x, c)[0] == wide.argmin(1)).all()
assert (nearest_k(x, c, 9) == np.argsort(wide, axis=1, kind="stable")[:, :9]).all()
print(LANES, MR)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names of x86 processors")
@pytest.mark.parametrize(
    ("settings", "block"),
    [
        ({"NUMBA_CPU_NAME": "generic"}, ["4", "6"]),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"}, ["8", "6"]),
    ],
)
def test_processors_without_avx512(tmp_path, settings, block) -> None:
    """numba compiles for another processor; codes are the float64 argmin there as well."""
    if "haswell" in settings.values() and "avx2" not in _flags():
        pytest.skip("this processor has no AVX2")
    done = subprocess.run(
        [sys.executable, "-c", BRUTE],
        env={**os.environ, **settings, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == block


def _flags() -> set[str]:
    """Features of this processor that LLVM knows."""
    import llvmlite.binding as llvm

    return {name for name, there in llvm.get_host_cpu_features().items() if there}


@compiled
def _twice(x):
    return 2 * x


@compiled(fastmath=FINITE)
def _thrice(x):
    return _twice(x) + x


def test_decorator_with_and_without_options() -> None:
    assert (_twice(3), _thrice(3)) == (6, 9)
    assert set(_thrice.targetoptions["fastmath"]) == set(FINITE)
    assert _twice.targetoptions["nogil"] is True
