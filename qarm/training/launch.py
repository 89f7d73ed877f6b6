"""Starts the ranks of a training: in one plain process, by ``horovodrun``, or in Spark executors.

The same function ``train(spec) -> dict`` runs in each of them (``qarm.training.worker``). Ranks are
processes of their own, so that the parent's JVM, threads and memory stay out of training.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import qarm.errors
from qarm import progress
from qarm.errors import ConfigError, QarmError, TrainingError
from qarm.lake import files
from qarm.session import is_local
from qarm.training import collectives
from qarm.training.worker import LAUNCHER_PID, PROGRESS, RESULT_FILE, failure_file

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

Backend = Literal["auto", "local", "horovodrun", "spark"]

LOG_FILE = "ranks.log"
SPEC_FILE = "spec.json"

_TAIL_LINES = 30
_GRACE_SECONDS = 10.0
_SLOTS_TIMEOUT_SECONDS = 300
# The parent's gateway to its JVM; a child that starts Spark must make its own.
_PARENT_ONLY = ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET", "PYSPARK_SUBMIT_ARGS")
# glibc hands every large tensor back to the kernel and asks for it anew in the next step: up to a
# third of a rank's time went into page faults. Kept, it is reused; other systems ignore these.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 31),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}


def launch(
    function: str,
    spec: Mapping[str, Any],
    *,
    ranks: int,
    backend: Backend = "auto",
    work_dir: str,
    spark: SparkSession | None = None,
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

    Raises:
        ConfigError: backend and ranks do not fit.
        QarmError: a rank raised it: the same class, so that the exit code is the same.
        TrainingError: a rank failed otherwise: the first traceback, and the end of the log.
    """
    chosen = choose_backend(backend, ranks, spark)
    for name in [RESULT_FILE, *(failure_file(rank) for rank in range(ranks))]:
        files.remove_tree(files.join(work_dir, name))
    spec_uri = files.join(work_dir, SPEC_FILE)
    files.write_text(spec_uri, json.dumps(spec, indent=1, sort_keys=True))
    with _log(work_dir) as log:
        logger.info("training on %d rank(s) by %s; log: %s", ranks, chosen, log.name)
        if chosen == "spark":
            assert spark is not None
            fault = _in_spark(function, dict(spec), ranks, work_dir, spark, log)
        else:
            command = [sys.executable, "-m", "qarm.training.worker", "--function", function]
            command += ["--spec", spec_uri, "--work-dir", work_dir]
            if chosen == "horovodrun":
                command = collectives.horovodrun_command(ranks) + command
            fault = _in_subprocess(command, child_environment(ranks), log)
        log.flush()
        if fault is None and not files.exists(files.join(work_dir, RESULT_FILE)):
            fault = f"rank 0 wrote no {RESULT_FILE} to {work_dir}"
        if fault is not None:
            raise _failure(fault, ranks, work_dir, Path(log.name))
    result: dict[str, Any] = json.loads(files.read_text(files.join(work_dir, RESULT_FILE)))
    return result


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


def child_environment(ranks: int) -> dict[str, str]:
    """Environment of ranks on this machine: cores shared out, and our ``sys.path``.

    The path makes ``qarm`` importable there also if it came here from a zip or a wheel.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _PARENT_ONLY}
    for name, value in {**collectives.LAUNCH_ENVIRONMENT, **_KEEP_MEMORY}.items():
        environment.setdefault(name, value)
    # macOS cannot say which cores are ours.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, (cores or 1) // ranks))
    environment.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    environment["PYTHONPATH"] = os.pathsep.join(_import_path())
    environment["PYTHONUNBUFFERED"] = "1"
    environment[LAUNCHER_PID] = str(os.getpid())
    return environment


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
) -> str | None:
    """Run the ranks in executors; what went wrong, if anything did."""
    context = spark.sparkContext
    environment = dict(collectives.LAUNCH_ENVIRONMENT)
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
            raise TrainingError(
                f"Spark gave no {ranks} free task slots within {_SLOTS_TIMEOUT_SECONDS} s: each "
                "rank needs one. Add cores, or lower training.ranks"
            ) from error
        return f"horovod.spark.run failed: {error}"
    return None


def _failure(fault: str, ranks: int, work_dir: str, log: Path) -> QarmError:
    """The error to raise: the first one that a rank left."""
    found = []
    for rank in range(ranks):
        uri = files.join(work_dir, failure_file(rank))
        if files.exists(uri):
            found.append(json.loads(files.read_text(uri)))
    found.sort(key=lambda failure: (failure["follows"], failure["time"]))
    if found and found[0]["of_ours"] and not found[0]["follows"]:
        kind = getattr(qarm.errors, found[0]["type"], TrainingError)
        return kind(f"{found[0]['message']} (rank {found[0]['rank']}; log: {log})")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    tail = "\n".join(lines[-_TAIL_LINES:])
    first = f"First error, of rank {found[0]['rank']}:\n{found[0]['traceback']}\n" if found else ""
    return TrainingError(f"training failed: {fault}.\n{first}End of the log {log}:\n{tail}")
