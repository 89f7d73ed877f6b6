"""One rank: imports the training function, runs it, and writes its result or its error.

``python -m qarm.training.worker --function package.module:name --task TASK.json --work-dir URI``

The function takes one dataclass and returns one; its annotations name them. It is called on every
rank. Rank 0 writes ``result.json`` to the work folder; a rank that fails writes
``failure-<rank>.json``, so that the launcher can show the error that came first. A rank that waits
too long for the others ends with an error that names the ranks that stalled.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from qarm.errors import ConfigError, plain_form
from qarm.lake import files
from qarm.training import collectives, failures
from qarm.training.collectives import RankLostError
from qarm.training.wire import from_json, to_json

RESULT_FILE = "result.json"
#: Prefix of a rank's log line that the launcher shows as progress.
PROGRESS = "progress: "
LAUNCHER_PID = "QARM_LAUNCHER_PID"
"""Environment variable: a rank on the launcher's machine ends when that process does."""

STALL_SECONDS = "QARM_STALL_SECONDS"
"""Environment variable: a rank that waits this many seconds in a collective gives up."""

_ORPHANED = 143
_POLL_SECONDS = 1.0


def resolve(function: str) -> tuple[Callable[[Any], Any], Any]:
    """The callable at ``package.module:name``, and the type of its only argument.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = function.partition(":")
    try:
        train = getattr(importlib.import_module(module), name)
        (argument,) = inspect.signature(train).parameters
        return train, get_type_hints(train)[argument]
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"no training function {function!r} (package.module:name): {error}"
        ) from error


def run_rank(function: str, task: str, work_dir: str) -> None:
    """Run the training function on this rank; rank 0 writes the result.

    Args:
        function: ``package.module:name``.
        task: its argument as JSON (``wire.to_json``).
        work_dir: URI of the folder for result and errors.

    Raises:
        Exception: whatever the function raised, after it has been written to the work folder.
    """
    rank = int(os.environ.get("HOROVOD_RANK", "0"))
    if seconds := float(os.environ.get(STALL_SECONDS) or 0):
        _give_up_after(seconds, work_dir, rank)
    _take_cores()
    try:
        train, kind = resolve(function)
        _set_threads()
        result = to_json(train(from_json(kind, task)))
    except RankLostError as error:
        raise _named(error, work_dir, rank) from error
    except BaseException as error:
        plain = plain_form(error) if isinstance(error, Exception) else None
        failures.record(work_dir, rank, plain or error, traceback.format_exc())
        raise
    if rank == 0:
        files.write_text(files.join(work_dir, RESULT_FILE), result)


def _named(error: RankLostError, work_dir: str, rank: int, stack: str = "") -> RankLostError:
    """Write the error, with the names of the ranks that write none."""
    stack = stack or traceback.format_exc()
    failures.record(work_dir, rank, error, stack)
    if silent := failures.silent(work_dir, int(os.environ.get("HOROVOD_SIZE", "1"))):
        error = RankLostError(f"{failures.named(silent)} stopped or stalled. {error}")
        failures.record(work_dir, rank, error, stack)
    return error


def _give_up_after(seconds: float, work_dir: str, rank: int) -> None:
    """End this process when it has waited ``seconds`` in one collective."""

    def watch() -> None:
        while True:
            time.sleep(min(_POLL_SECONDS, seconds / 4))
            operation = collectives.waiting()
            if operation is None or operation[1] < seconds:
                continue
            frame = sys._current_frames()[threading.main_thread().ident or 0]
            stack = "".join(traceback.format_stack(frame))
            name, waited = operation
            error = RankLostError(f"rank {rank} waited {waited:.0f} s in {name}")
            error = _named(error, work_dir, rank, stack)
            sys.stderr.write(f"{stack}{type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)  # the main thread waits for another rank and does not return

    threading.Thread(target=watch, daemon=True).start()


def _take_cores() -> None:
    """Bind this rank to its share of the cores, where our launcher started several on its machine.

    A rank that moves between cores loses its caches, and one rank's reader threads slow down the
    other. Executors of Spark have other work to do and share their cores.
    """
    ranks = int(os.environ.get("HOROVOD_LOCAL_SIZE", "1"))
    if ranks == 1 or LAUNCHER_PID not in os.environ or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // ranks
    if share:
        first = int(os.environ["HOROVOD_LOCAL_RANK"]) * share
        os.sched_setaffinity(0, cores[first : first + share])


def _set_threads() -> None:
    """Give torch as many threads as OMP_NUM_THREADS says; its pool between operators is unused."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        import torch

        torch.set_num_threads(int(threads))


def _end_with(pid: int) -> None:
    """End this process when the launcher has ended, even by ``kill -9``: no orphaned ranks."""

    def watch() -> None:
        while True:
            try:
                os.kill(pid, 0)
            except OSError:
                os._exit(_ORPHANED)
            time.sleep(_POLL_SECONDS)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 if the function returned, 1 if it raised."""
    parser = argparse.ArgumentParser(description="One training rank; started by the launcher.")
    parser.add_argument("--function", required=True, help="package.module:name")
    parser.add_argument("--task", required=True, help="URI of the function's argument, as JSON")
    parser.add_argument("--work-dir", required=True, help="URI of the folder for the result")
    given = parser.parse_args(arguments)
    if os.environ.get(LAUNCHER_PID):
        _end_with(int(os.environ[LAUNCHER_PID]))
    # Petastorm logs a line per reader; only our own messages reach the launcher.
    logging.basicConfig(level=logging.WARNING, format=f"{PROGRESS}%(message)s", stream=sys.stdout)
    logging.getLogger("qarm").setLevel(logging.INFO)
    try:
        run_rank(given.function, files.read_text(given.task), given.work_dir)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
