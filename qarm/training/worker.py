"""One rank: imports the training function, runs it, and leaves its result or its error.

``python -m qarm.training.worker --function package.module:name --spec SPEC.json --work-dir URI``

The function takes the spec and returns a JSON-able dict, and is called on every rank. Rank 0
writes ``result.json`` to the work folder; a rank that fails writes ``failure-<rank>.json``, so that
the launcher can show the error that came first.
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

from qarm.errors import ConfigError, QarmError
from qarm.lake import files
from qarm.training.collectives import RankLostError

RESULT_FILE = "result.json"
#: Starts a line of a rank that the launcher hands on to the person who waits.
PROGRESS = "progress: "
LAUNCHER_PID = "QARM_LAUNCHER_PID"
"""Environment variable: a rank on the launcher's machine ends when that process does."""

_ORPHANED = 143
_POLL_SECONDS = 1.0


def failure_file(rank: int) -> str:
    """Name of the file with the error of ``rank``."""
    return f"failure-{rank}.json"


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
    try:
        train = resolve(function)
        _set_threads()
        result: dict[str, Any] = train(spec)
        text = json.dumps(result)
    except BaseException as error:
        _write_failure(work_dir, rank, error)
        raise
    if rank == 0:
        files.write_text(files.join(work_dir, RESULT_FILE), text)
    return result


def _set_threads() -> None:
    """Torch's threads as the launcher's OMP_NUM_THREADS; its other pool is not used."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        import torch

        torch.set_num_threads(int(threads))


def _write_failure(work_dir: str, rank: int, error: BaseException) -> None:
    content = {
        "rank": rank,
        "time": time.time(),
        "type": type(error).__name__,
        "of_ours": isinstance(error, QarmError),
        # A collective that failed tells that another rank is gone, not why.
        "follows": isinstance(error, RankLostError),
        "message": str(error),
        "traceback": traceback.format_exc(),
    }
    files.write_text(files.join(work_dir, failure_file(rank)), json.dumps(content))


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
