"""One rank: imports the training function, runs it, and leaves its result or its error.

``python -m qarm.training.worker --function package.module:name --spec SPEC.json --work-dir URI``

The function takes the spec and returns a JSON-able dict, and is called on every rank. Rank 0
writes ``result.json`` to the work folder; a rank that fails writes ``failure-<rank>.json``, so that
the launcher can show the error that came first. A rank that waits too long for the others ends with
an error that names those that took no part.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from qarm.errors import ConfigError
from qarm.lake import files
from qarm.training import collectives, failures
from qarm.training.collectives import RankLostError

RESULT_FILE = "result.json"
#: Starts a line of a rank that the launcher hands on to the person who waits.
PROGRESS = "progress: "
LAUNCHER_PID = "QARM_LAUNCHER_PID"
"""Environment variable: a rank on the launcher's machine ends when that process does."""

STALL_SECONDS = "QARM_STALL_SECONDS"
"""Environment variable: a rank that waits so long in a collective gives up."""

_ORPHANED = 143
_POLL_SECONDS = 1.0


def resolve(function: str) -> Any:
    """The callable at ``package.module:name``.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no training function {function!r} (package.module:name): {error}"
        ) from error
    return found


def run_rank(function: str, spec: dict[str, Any], work_dir: str) -> dict[str, Any]:
    """Run the training function on this rank; its result.

    Raises:
        Exception: whatever the function raised, after it has been written to the work folder.
    """
    rank = int(os.environ.get("HOROVOD_RANK", "0"))
    if seconds := float(os.environ.get(STALL_SECONDS) or 0):
        _give_up_after(seconds, work_dir, rank)
    _take_cores()
    try:
        train = resolve(function)
        _set_threads()
        result: dict[str, Any] = train(spec)
        text = json.dumps(result)
    except RankLostError as error:
        raise _named(error, work_dir, rank) from error
    except BaseException as error:
        failures.record(work_dir, rank, error, traceback.format_exc())
        raise
    if rank == 0:
        files.write_text(files.join(work_dir, RESULT_FILE), text)
    return result


def _named(error: RankLostError, work_dir: str, rank: int, stack: str = "") -> RankLostError:
    """Leave the error, and give it the names of the ranks that leave none."""
    stack = stack or traceback.format_exc()
    failures.record(work_dir, rank, error, stack)
    if silent := failures.silent(work_dir, int(os.environ.get("HOROVOD_SIZE", "1"))):
        error = RankLostError(f"{failures.named(silent)} stopped or stalled. {error}")
        failures.record(work_dir, rank, error, stack)
    return error


def _give_up_after(seconds: float, work_dir: str, rank: int) -> None:
    """End this process when it has waited that long in one collective."""

    def watch() -> None:
        while True:
            time.sleep(min(_POLL_SECONDS, seconds / 4))
            held = collectives.waiting()
            if held is None or held[1] < seconds:
                continue
            frame = sys._current_frames()[threading.main_thread().ident or 0]
            stack = "".join(traceback.format_stack(frame))
            error = RankLostError(f"rank {rank} waited {held[1]:.0f} s in {held[0]}")
            error = _named(error, work_dir, rank, stack)
            sys.stderr.write(f"{stack}{type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)  # the main thread waits for another rank and does not come back

    threading.Thread(target=watch, daemon=True).start()


def _take_cores() -> None:
    """Where our launcher has started ranks on its machine, keep this one on its share of the cores.

    A rank that is moved about leaves what it computes with in another core's cache, and readers of
    one rank push the other aside. Spark's executors have other work beside ranks and share cores.
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
    """Torch's threads as the launcher's OMP_NUM_THREADS; its other pool is not used."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        import torch

        torch.set_num_threads(int(threads))


def _end_with(pid: int) -> None:
    """End this process when the launcher is gone, even by ``kill -9``: no orphaned ranks."""

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
    parser.add_argument("--spec", required=True, help="URI of the function's argument, as JSON")
    parser.add_argument("--work-dir", required=True, help="URI of the folder for the result")
    given = parser.parse_args(arguments)
    if os.environ.get(LAUNCHER_PID):
        _end_with(int(os.environ[LAUNCHER_PID]))
    # Other libraries' chatter (Petastorm's, of every reader) stays out; ours is for the launcher.
    logging.basicConfig(level=logging.WARNING, format=f"{PROGRESS}%(message)s", stream=sys.stdout)
    logging.getLogger("qarm").setLevel(logging.INFO)
    try:
        run_rank(given.function, json.loads(files.read_text(given.spec)), given.work_dir)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
