"""A standalone Spark cluster on 127.0.0.1, whose Python does not have qarm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyspark

from tests.sessions import FEW_PARTITIONS

ROOT = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent


@dataclass(frozen=True)
class Cluster:
    """Where to submit, and the Python of driver and workers."""

    folder: Path
    """Of logs, and of the workers' own folders: work0, work1."""
    master: str
    python: Path
    wheel: Path


def bare_python(folder: Path) -> Path:
    """A Python that sees all packages of this environment but not qarm.

    The packages' folder is added by a .pth file; .pth files inside it, among them the editable
    install of qarm, are not followed.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    target = next(folder.glob("lib/python*/site-packages"))
    (target / "packages.pth").write_text(f"{packages}\n")
    python = folder / "bin" / "python"
    assert not has_qarm(python)
    return python


def has_qarm(python: Path) -> bool:
    """Whether this Python has a qarm of its own."""
    seen = subprocess.run([python, "-c", "import qarm"], cwd="/", capture_output=True, check=False)
    return seen.returncode == 0


def build_wheel(folder: Path) -> Path:
    """The wheel that travels by --py-files, built from a copy so that the checkout stays clean."""
    copy = folder / "source"
    names = ("qarm", "schemas", "jobs", "setup.py", "pyproject.toml", "README.md", "MANIFEST.in")
    for name in names:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "-w", str(folder), str(copy)],
        check=True,
    )  # fmt: skip
    return next(folder.glob("qarm-*.whl"))


def environment(python: Path) -> dict[str, str]:
    """Environment of master, workers and submits: no trace of this checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYSPARK", "SPARK", "PYTHON"))}
    return {
        **kept,
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": str(python),
        "PYSPARK_DRIVER_PYTHON": str(python),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@contextmanager
def standalone(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """Master and ``workers`` one-core workers, each a process of its own; stopped at the end."""
    python = bare_python(folder / "python")
    env = environment(python)
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> Path:
        log = folder / f"{name}.log"
        with log.open("wb") as out:
            processes.append(
                subprocess.Popen(
                    [str(SPARK_HOME / "bin" / "spark-class"), *arguments],
                    env=env, cwd=folder, stdout=out, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
        return log

    deploy = "org.apache.spark.deploy"
    try:
        log = start("master", f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", "0",
                    "--webui-port", "0")  # fmt: skip
        master = _wait_for(log, r"Starting Spark master at (spark://\S+)")
        for number in range(workers):
            log = start(
                f"worker{number}", f"{deploy}.worker.Worker", "--host", "127.0.0.1", "--cores", "1",
                "--memory", "2g", "--webui-port", "0", "--work-dir", str(folder / f"work{number}"),
                master,
            )  # fmt: skip
            _wait_for(log, r"(Successfully registered) with master")
        yield Cluster(folder, master, python, build_wheel(folder))
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def submit(
    cluster: Cluster,
    job: Path,
    *arguments: str,
    master: str | None = None,
    timeout: float = 1200,
    heard: Callable[[str], None] = lambda line: None,
) -> str:
    """spark-submit with the wheel by --py-files; its standard output.

    Args:
        heard: called with each line that the job prints, while it runs.

    Raises:
        AssertionError: it failed; with the end of what it printed.
    """
    settings: list[str] = []
    for name, value in FEW_PARTITIONS.items():
        settings += ["--conf", f"{name}={value}"]
    command = [
        str(SPARK_HOME / "bin" / "spark-submit"),
        "--master", master or cluster.master,
        "--properties-file", str(ROOT / "spark-defaults.conf"),
        "--py-files", str(cluster.wheel),
        *settings,
        "--conf", "spark.driver.memory=1500m",
        "--conf", "spark.executor.memory=1200m",
        # Two executors of one slot: by default a task waits 3 s for the one that has its rows.
        "--conf", "spark.locality.wait=0",
        str(job), *arguments,
    ]  # fmt: skip
    printed: list[str] = []  # spark-submit hands on both outputs of the driver's Python as one
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment(cluster.python), cwd=cluster.wheel.parent,
            stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as process,
    ):  # fmt: skip
        limit = threading.Timer(timeout, process.kill)
        limit.start()
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            heard(line)
        code = process.wait()
        limit.cancel()
        errors.seek(0)
        said = errors.read()
    out = "".join(printed)
    assert code == 0, f"{job.name}: {out[-2000:]}\n{said[-6000:]}"
    return out


def kill_an_executor() -> int:
    """``kill -9`` of one executor of the cluster; its process id."""
    executors = [
        each
        for each in psutil.Process().children(recursive=True)
        if "CoarseGrainedExecutorBackend" in " ".join(_command_line(each))
    ]
    assert executors, "the cluster has no executor"
    executors[0].kill()
    return executors[0].pid


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []


def _wait_for(log: Path, pattern: str, seconds: float = 60) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := re.search(pattern, log.read_text(errors="replace")):
            return found.group(1)
        time.sleep(0.2)
    raise AssertionError(f"{log.name} never said {pattern!r}: {log.read_text()[-2000:]}")
