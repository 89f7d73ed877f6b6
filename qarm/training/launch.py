"""Starts the ranks of a training: as processes of this machine, or in Spark executors.

The same function ``train(task) -> result`` runs on each of them (``qarm.training.worker``); task
and result are dataclasses and travel as JSON. Ranks are processes of their own, so that the JVM,
threads and memory of the parent do not affect training.

If a rank is lost (killed, its host gone, or stalled), all are started again and the function
resumes from its latest checkpoint. The remaining ranks could not continue without the lost one,
since each has its own reader; Horovod's elastic mode would also return to the last commit.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

import qarm.errors
from qarm import progress
from qarm.config.training import Backend, Training
from qarm.errors import ConfigError, QarmError, TrainingError
from qarm.lake import files
from qarm.session import is_local
from qarm.training import collectives, failures
from qarm.training.collectives import RankLostError
from qarm.training.failures import Failure
from qarm.training.processes import Ended, run_processes
from qarm.training.wire import from_json, to_json
from qarm.training.worker import (
    LAUNCHER_PID,
    RESULT_FILE,
    STALL_SECONDS,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

R = TypeVar("R")

LOG_FILE = "ranks.log"
TASK_FILE = "task.json"

_TAIL_LINES = 30
_SLOTS_TIMEOUT_SECONDS = 300
# The parent's gateway to its JVM; a child that starts Spark needs its own.
_PARENT_ONLY = ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET", "PYSPARK_SUBMIT_ARGS")
# By default glibc returns every large tensor to the kernel, and page faults in the next step take
# up to a third of a rank's time. With these settings freed memory is reused, in pages of 2 MB where
# the kernel offers them (table look-ups: 5 % faster). Other systems ignore these variables.
_KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 31),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}


class _NoSlotsError(TrainingError):
    """Spark has fewer free task slots than ranks."""


def launch(
    function: str,
    task: Any,
    result: type[R],
    training: Training,
    *,
    work_dir: str,
    spark: SparkSession | None = None,
    shards: int | None = None,
) -> R:
    """Run ``function(task)`` on ``training.ranks`` ranks and return rank 0's result.

    Args:
        function: ``package.module:name``, importable where the ranks run.
        task: its argument, a dataclass (see ``wire``).
        result: the dataclass that it returns.
        training: section [training]: ranks, backend, restarts, stall_seconds.
        work_dir: URI of a folder for task, result and log of this training alone. With backend
            "spark" the executors must be able to reach it.
        spark: session whose executors run the ranks with backend "spark"; with "auto", a session on
            a cluster chooses that backend.
        shards: canonical shards of the training's loaders. If Spark no longer has enough task slots
            at a restart, fewer ranks are started, by a number that divides it; None: never.

    Raises:
        ConfigError: backend and ranks do not fit.
        QarmError: a rank raised it: the same class, so that the exit code is the same.
        RankLostError: a rank was lost after the last restart; the error names it.
        TrainingError: a rank failed otherwise: the first traceback, and the end of the log.
    """
    backend = choose_backend(training.backend, spark)
    content = to_json(task)
    files.write_text(files.join(work_dir, TASK_FILE), content)
    world = training.ranks
    with _log(work_dir) as log:
        for restart in range(training.restarts + 1):
            logger.info("training on %d rank(s) by %s; log: %s", world, backend, log.name)
            start = _Start(function, work_dir, world, training.stall_seconds, log)
            try:
                if backend == "spark":
                    assert spark is not None
                    return from_json(result, start.in_spark(content, spark))
                return from_json(result, start.here())
            except _NoSlotsError:
                fewer = [r for r in range(1, world) if (shards or 0) % r == 0] if shards else []
                if not restart or restart == training.restarts or not fewer:
                    raise
                world = fewer[-1]
                progress.say(f"  not enough free task slots; restarted with {world} rank(s)")
            except RankLostError as error:
                if restart == training.restarts:
                    raise
                first = str(error).partition("\n")[0]
                progress.say(f"  {first} Restart {restart + 1} of {training.restarts}")
    raise AssertionError("the last restart returns or raises")


def choose_backend(backend: Backend, spark: SparkSession | None) -> Literal["local", "spark"]:
    """The backend that ``auto`` stands for, and checks of the others.

    Raises:
        ConfigError: spark without a session.
    """
    if backend == "spark" and spark is None:
        raise ConfigError("training.backend = 'spark' needs a Spark session")
    if backend != "auto":
        return backend
    if spark is not None and not is_local(spark):
        return "spark"
    return "local"


def child_environment(ranks: int, stall_seconds: int) -> dict[str, str]:
    """Environment of ranks on this machine: cores shared out, and our ``sys.path``.

    The path makes ``qarm`` importable there also if it came here from a zip or a wheel.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _PARENT_ONLY}
    for name, value in {**_stall_environment(stall_seconds), **_KEEP_MEMORY}.items():
        environment.setdefault(name, value)
    # macOS cannot say which cores are ours.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, (cores or 1) // ranks))
    environment.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    environment["PYTHONPATH"] = os.pathsep.join(_import_path())
    environment["PYTHONUNBUFFERED"] = "1"
    environment[LAUNCHER_PID] = str(os.getpid())
    return environment


def _stall_environment(stall_seconds: int) -> dict[str, str]:
    return {**collectives.launch_environment(stall_seconds), STALL_SECONDS: str(stall_seconds)}


def _import_path() -> list[str]:
    """Absolute entries of ``sys.path``, each once."""
    return list(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))


@contextmanager
def _log(work_dir: str) -> Iterator[IO[str]]:
    """The log of the ranks: in the work folder if that is local, else in a temporary file."""
    folder = files.local_path(work_dir)
    if folder is None:
        handle, path = tempfile.mkstemp(prefix="qarm-ranks-", suffix=".log")
        os.close(handle)
    else:
        path = os.path.join(folder, LOG_FILE)
    with open(path, "w", encoding="utf-8") as log:
        yield log


@dataclass(frozen=True)
class _Start:
    """One start of the ranks; its methods return rank 0's result, as JSON, or raise."""

    function: str
    work_dir: str
    ranks: int
    stall_seconds: int
    log: IO[str]

    def here(self) -> str:
        """In processes on this machine."""
        task = files.join(self.work_dir, TASK_FILE)
        command = [sys.executable, "-m", "qarm.training.worker", "--function", self.function]
        command += ["--task", task, "--work-dir", self.work_dir]
        environment = child_environment(self.ranks, self.stall_seconds)
        with collectives.rendezvous(self.ranks) as worlds:
            environments = [{**environment, **world} for world in worlds]
            return self._result(lambda: run_processes(command, environments, self.log))

    def in_spark(self, task: str, spark: SparkSession) -> str:
        """In Spark executors."""
        return self._result(lambda: _in_spark(self, task, spark))

    def _result(self, run: Callable[[], Ended | str | None]) -> str:
        """The result after ``run``, which returns the rank or what went wrong, or None."""
        uri = files.join(self.work_dir, RESULT_FILE)
        files.remove_tree(uri)
        failures.clear(self.work_dir, self.ranks)
        self.log.flush()
        begin = os.path.getsize(self.log.name)
        fault = run()
        self.log.flush()
        if fault is None and not files.exists(uri):
            fault = f"rank 0 wrote no {RESULT_FILE} to {self.work_dir}"
        if fault is not None:
            raise _failure(fault, self.ranks, self.work_dir, Path(self.log.name), begin)
        return files.read_text(uri)


def _in_spark(start: _Start, task: str, spark: SparkSession) -> str | None:
    """Run the ranks in executors; returns what went wrong, or None."""
    function, ranks, work_dir = start.function, start.ranks, start.work_dir
    context = spark.sparkContext
    environment = _stall_environment(start.stall_seconds)
    environment["OMP_NUM_THREADS"] = context.getConf().get("spark.task.cpus", "1") or "1"
    shipped = context.getConf().get("spark.submit.pyFiles", "") or ""
    names = [os.path.basename(path) for path in shipped.split(",") if path]
    names += [os.path.basename(str(path)) for path in getattr(context, "_python_includes", [])]
    driver_path = _import_path()

    # Pickled by value, because the rank's process may not find qarm: Spark puts --py-files on the
    # path of its own Python workers only, and Horovod starts the rank beside them.
    def run() -> None:
        import os
        import sys

        folders = [os.environ.get("HOROVOD_SPARK_WORK_DIR", "."), os.getcwd()]
        local = [os.path.join(folder, name) for folder in folders for name in names]
        for path in [*local, *driver_path]:
            if os.path.exists(path) and path not in sys.path:
                sys.path.append(path)
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        from qarm.training.worker import run_rank

        run_rank(function, task, work_dir)

    try:
        collectives.run_in_spark(run, ranks, _SLOTS_TIMEOUT_SECONDS, start.log)
    except QarmError:
        raise
    except Exception as error:
        if "Timed out waiting" in str(error):
            raise _NoSlotsError(
                f"Spark gave no {ranks} free task slots within {_SLOTS_TIMEOUT_SECONDS} s: each "
                "rank needs one. Add cores, or lower training.ranks"
            ) from error
        return f"horovod.spark.run failed: {error}"
    return None


def _failure(fault: Ended | str, ranks: int, work_dir: str, log: Path, begin: int) -> QarmError:
    """The error to raise: the first one that a rank left, or that of a rank that left none.

    Args:
        begin: where this start's part of the log begins.
    """
    left = failures.read(work_dir, ranks)
    first = left[0] if left else None
    is_cause = first is not None and not first.is_consequence
    if first is not None and first.is_ours and is_cause:
        kind = getattr(qarm.errors, first.type, TrainingError)
        return kind(f"{first.message} (rank {first.rank}; log: {log})")
    text = log.read_bytes()[begin:].decode("utf-8", errors="replace")
    tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
    cause = f"First error, of rank {first.rank}:\n{first.traceback}\n" if first else ""
    said = fault if isinstance(fault, str) else f"rank {fault.rank} ended: {fault.how}"
    rest = f"{said}.\n{cause}End of the log {log}:\n{tail}"
    if is_cause:
        return TrainingError(f"training failed: {rest}")
    return RankLostError(f"training failed: {_lost(ranks, left, fault)}; {rest}")


def _lost(ranks: int, left: Sequence[Failure], fault: Ended | str) -> str:
    """Which rank is gone: the process that ended first without an error, or all that left none."""
    if isinstance(fault, Ended) and fault.rank not in [failure.rank for failure in left]:
        return f"rank {fault.rank} was lost ({fault.how})"
    if left:  # this rank waited for the others' errors, and names those that left none
        return left[0].message
    return f"{failures.named(list(range(ranks)))} left no error"
