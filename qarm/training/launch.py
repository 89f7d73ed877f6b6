"""Starts the ranks of a training: in one plain process, by ``horovodrun``, or in Spark executors.

The same function ``train(spec) -> dict`` runs in each of them (``qarm.training.worker``). Ranks are
processes of their own, so that the parent's JVM, threads and memory stay out of training.

Where a rank was lost (killed, its host gone, or stalled) all are started again, and the function
goes on from its latest checkpoint: with sparse gradients and a reader each, ranks that stayed could
not go on without the lost one, and Horovod's own elastic mode would run them from the last commit
as well.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import qarm.errors
from qarm import progress
from qarm.errors import ConfigError, QarmError, TrainingError
from qarm.lake import files
from qarm.session import is_local
from qarm.training import collectives, failures
from qarm.training.collectives import RankLostError
from qarm.training.worker import LAUNCHER_PID, PROGRESS, RESULT_FILE, STALL_SECONDS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

Backend = Literal["auto", "local", "horovodrun", "spark"]

LOG_FILE = "ranks.log"
SPEC_FILE = "spec.json"

_TAIL_LINES = 30
_GRACE_SECONDS = 10.0
_BY_SIGNAL = 128  # exit codes above it, as a shell has them
_SLOTS_TIMEOUT_SECONDS = 300
_STALL_SECONDS = 1800
# The parent's gateway to its JVM; a child that starts Spark must make its own.
_PARENT_ONLY = ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET", "PYSPARK_SUBMIT_ARGS")
# glibc hands every large tensor back to the kernel and asks for it anew in the next step: up to a
# third of a rank's time went into page faults. Kept, it is reused, and in pages of 2 MB, where the
# kernel gives them, look-ups in tables are a twentieth faster. Other systems ignore these.
_KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 31),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}


class _NoSlotsError(TrainingError):
    """Spark has fewer free task slots than ranks."""


def launch(
    function: str,
    spec: Mapping[str, Any],
    *,
    ranks: int,
    backend: Backend = "auto",
    work_dir: str,
    spark: SparkSession | None = None,
    shards: int | None = None,
    restarts: int = 0,
    stall_seconds: int = _STALL_SECONDS,
) -> dict[str, Any]:
    """Run ``function(spec)`` on ``ranks`` ranks and return rank 0's result.

    Args:
        function: ``package.module:name``, importable where the ranks run.
        spec: its argument; JSON-able.
        ranks: processes that train together.
        backend: local: one plain process without Horovod. horovodrun: processes on this machine.
            spark: executors of ``spark``, which need as many free task slots as ranks, and a
            work folder that they can reach. auto: spark if ``spark`` runs on a cluster, else
            local for one rank and horovodrun for more.
        work_dir: URI of a folder for spec, result and log of this training alone.
        shards: canonical shards of the training's loaders. Restarted ranks for which Spark has no
            slots any more become fewer, by a number that divides it; None: never.
        restarts: how often ranks are started again after one was lost; ``function`` should go on
            from its checkpoints. An error that a rank raised is not tried again.
        stall_seconds: ranks that wait so long for another give up.

    Raises:
        ConfigError: backend and ranks do not fit.
        QarmError: a rank raised it: the same class, so that the exit code is the same.
        RankLostError: a rank was lost once more than ``restarts``; the error names it.
        TrainingError: a rank failed otherwise: the first traceback, and the end of the log.
    """
    chosen = choose_backend(backend, ranks, spark)
    spec_uri = files.join(work_dir, SPEC_FILE)
    files.write_text(spec_uri, json.dumps(spec, indent=1, sort_keys=True))
    world = ranks
    with _log(work_dir) as log:
        for restart in range(restarts + 1):
            logger.info("training on %d rank(s) by %s; log: %s", world, chosen, log.name)
            start = _Start(function, dict(spec), spec_uri, work_dir, world, stall_seconds, log)
            try:
                return start.in_spark(spark) if chosen == "spark" else start.here(chosen)
            except _NoSlotsError:
                fewer = [r for r in range(1, world) if (shards or 0) % r == 0] if shards else []
                if not restart or restart == restarts or not fewer:
                    raise
                world = fewer[-1]
                progress.say(f"  not enough free task slots; restarted with {world} rank(s)")
            except RankLostError as error:
                if restart == restarts:
                    raise
                first = str(error).partition("\n")[0]
                progress.say(f"  {first} Restart {restart + 1} of {restarts}")
    raise AssertionError("the last restart returns or raises")


def choose_backend(
    backend: Backend, ranks: int, spark: SparkSession | None
) -> Literal["local", "horovodrun", "spark"]:
    """The backend that ``auto`` stands for, and checks of the others.

    Raises:
        ConfigError: local with several ranks, spark without a session, or no ranks at all.
    """
    if ranks < 1:
        raise ConfigError(f"training.ranks must be at least 1, got {ranks}")
    if backend == "local" and ranks > 1:
        raise ConfigError(f"training.backend = 'local' runs one rank, training.ranks is {ranks}")
    if backend == "spark" and spark is None:
        raise ConfigError("training.backend = 'spark' needs a Spark session")
    if backend != "auto":
        return backend
    if spark is not None and not is_local(spark):
        return "spark"
    return "local" if ranks == 1 else "horovodrun"


def child_environment(ranks: int, stall_seconds: int = _STALL_SECONDS) -> dict[str, str]:
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
    """One start of the ranks; its methods return rank 0's result or raise what ``launch`` does."""

    function: str
    spec: dict[str, Any]
    spec_uri: str
    work_dir: str
    ranks: int
    stall_seconds: int
    log: IO[str]

    def here(self, backend: Literal["local", "horovodrun"]) -> dict[str, Any]:
        """In processes on this machine."""
        command = [sys.executable, "-m", "qarm.training.worker", "--function", self.function]
        command += ["--spec", self.spec_uri, "--work-dir", self.work_dir]
        if backend == "horovodrun":
            command = collectives.horovodrun_command(self.ranks) + command
        environment = child_environment(self.ranks, self.stall_seconds)
        return self._result(lambda: _in_subprocess(command, environment, self.log))

    def in_spark(self, spark: SparkSession | None) -> dict[str, Any]:
        """In Spark executors."""
        assert spark is not None
        return self._result(
            lambda: _in_spark(
                self.function,
                self.spec,
                self.ranks,
                self.work_dir,
                spark,
                self.log,
                _stall_environment(self.stall_seconds),
            )
        )

    def _result(self, run: Callable[[], str | None]) -> dict[str, Any]:
        files.remove_tree(files.join(self.work_dir, RESULT_FILE))
        failures.clear(self.work_dir, self.ranks)
        self.log.flush()
        begin = os.path.getsize(self.log.name)
        fault = run()
        self.log.flush()
        uri = files.join(self.work_dir, RESULT_FILE)
        if fault is None and not files.exists(uri):
            fault = f"rank 0 wrote no {RESULT_FILE} to {self.work_dir}"
        if fault is not None:
            raise _failure(fault, self.ranks, self.work_dir, Path(self.log.name), begin)
        result: dict[str, Any] = json.loads(files.read_text(uri))
        return result


def _in_subprocess(command: list[str], environment: dict[str, str], log: IO[str]) -> str | None:
    """Run ``command`` in a process group of its own; what went wrong, if anything did."""
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                log.flush()
                if PROGRESS in line:
                    progress.say(f"  {line.partition(PROGRESS)[2].rstrip()}")
            code = process.wait()
        except BaseException:
            _kill_group(process)
            raise
    if code < 0:
        return f"the ranks were ended by signal {-code} ({signal.Signals(-code).name})"
    return f"the ranks left with exit code {code}" if code else None


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Ask the process group to end, so that horovodrun ends its ranks; then make it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_GRACE_SECONDS)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _in_spark(
    function: str,
    spec: dict[str, Any],
    ranks: int,
    work_dir: str,
    spark: SparkSession,
    log: IO[str],
    stall_environment: Mapping[str, str],
) -> str | None:
    """Run the ranks in executors; what went wrong, if anything did."""
    context = spark.sparkContext
    environment = dict(stall_environment)
    environment["OMP_NUM_THREADS"] = context.getConf().get("spark.task.cpus", "1") or "1"
    shipped = context.getConf().get("spark.submit.pyFiles", "") or ""
    names = [os.path.basename(path) for path in shipped.split(",") if path]
    names += [os.path.basename(str(path)) for path in getattr(context, "_python_includes", [])]
    driver_path = _import_path()

    # Pickled by value, for the rank's process may not see qarm: Spark puts --py-files on the path
    # of its own Python workers only, and Horovod starts the rank beside them.
    def run() -> Any:
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

        return run_rank(function, spec, work_dir)

    try:
        collectives.run_in_spark(run, ranks, _SLOTS_TIMEOUT_SECONDS, log)
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


def _failure(fault: str, ranks: int, work_dir: str, log: Path, begin: int) -> QarmError:
    """The error to raise: the first one that a rank left, or that of a rank that left none.

    Args:
        begin: where this start's part of the log begins.
    """
    found = failures.find(work_dir, ranks)
    if found and found[0]["of_ours"] and not found[0]["follows"]:
        kind = getattr(qarm.errors, found[0]["type"], TrainingError)
        return kind(f"{found[0]['message']} (rank {found[0]['rank']}; log: {log})")
    text = log.read_bytes()[begin:].decode("utf-8", errors="replace")
    tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
    first = f"First error, of rank {found[0]['rank']}:\n{found[0]['traceback']}\n" if found else ""
    rest = f"{fault}.\n{first}End of the log {log}:\n{tail}"
    if found and not found[0]["follows"]:
        return TrainingError(f"training failed: {rest}")
    return RankLostError(f"training failed: {_lost(ranks, found, text)}; {rest}")


def _lost(ranks: int, found: Sequence[Mapping[str, Any]], log: str) -> str:
    """Who is gone: the process that ended first without a word, else all that left none."""
    left = [failure["rank"] for failure in found]
    ended = collectives.first_ended(log)
    if ended is not None and ended[0] not in left:
        rank, code = ended
        how = f"exit code {code}"
        if code > _BY_SIGNAL:
            how = f"killed by signal {code - _BY_SIGNAL}"
        return f"rank {rank} was lost ({how})"
    if found:  # it waited for the others' errors, and names those that left none
        return str(found[0]["message"])
    return f"{failures.named(list(range(ranks)))} left no error"
