"""Ranks as processes of this machine: start them, show their output, end them together."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import IO

from qarm import progress
from qarm.training.worker import PROGRESS

_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Ended:
    """The process that ended first without success."""

    rank: int
    code: int
    """Exit code; the negative number of the signal that ended it."""

    @property
    def how(self) -> str:
        """Such as "killed by signal 9"."""
        return f"killed by signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


def run_processes(
    command: Sequence[str], environments: Sequence[dict[str, str]], log: IO[str]
) -> Ended | None:
    """Run ``command`` once per environment, and wait for all; None if all succeed.

    Each process has a process group of its own. If one fails, or this process is interrupted, the
    others are ended. All lines go to the log, with the rank in front if there are several; lines
    with ``PROGRESS`` are shown too.
    """
    processes = [_start(command, environment) for environment in environments]
    first: Ended | None = None
    lock = Lock()
    with ThreadPoolExecutor(2 * len(processes)) as threads:
        try:
            for rank, process in enumerate(processes):
                threads.submit(_copy, process, f"[{rank}] " * (len(processes) > 1), log, lock)
            ranks = {threads.submit(process.wait): n for n, process in enumerate(processes)}
            for ended in as_completed(ranks):
                if ended.result() and first is None:
                    first = Ended(ranks[ended], ended.result())
                    _end(processes)
        except BaseException:
            _end(processes)
            raise
    return first


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _copy(process: subprocess.Popen[str], prefix: str, log: IO[str], lock: Lock) -> None:
    """Copy the output of one rank to the log, and show its progress."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            with lock:
                log.write(f"{prefix}{line}")
                log.flush()
            if PROGRESS in line:
                progress.say(f"  {line.partition(PROGRESS)[2].rstrip()}")


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ask the process groups to end; then make them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        try:
            for process in processes:
                process.wait(_GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
