"""Errors that a user can act on, the exit code of each, and how they reach a person.

Every message says what was expected, what was seen, where, and what to do. The command line and the
jobs print the message without a traceback and exit with ``exit_code`` (``guarded``). An error that
a Spark task raises arrives wrapped in Spark's own; ``plain_errors`` unwraps it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class QarmError(Exception):
    """Base of all errors caused by the input or the environment, not by a bug in qarm."""

    exit_code = 1


class ConfigError(QarmError):
    """The configuration cannot be used; the message names the field."""

    exit_code = 2


class InputError(QarmError):
    """A source file, column or value cannot be used."""

    exit_code = 3


class SchemaError(InputError):
    """A table does not have the columns of its schema."""


class GateError(QarmError):
    """A gate of the configuration stopped the run; nothing was published."""

    exit_code = 4


class RowsLostError(QarmError):
    """Rows in differ from rows out plus rows dropped for a reason; always a bug."""

    exit_code = 5


class TrainingError(QarmError):
    """A rank failed, stalled, or did not read exactly its rows."""

    exit_code = 6


class MissingStageError(QarmError):
    """A stage was started before the one that writes its inputs."""

    exit_code = 7


class ConflictError(QarmError):
    """Two runs wrote to one table at the same time; this one has to be started again."""

    exit_code = 8


class StorageError(QarmError):
    """A disk is full, or a folder cannot be written or read."""


class StartError(QarmError):
    """Spark cannot start on this machine."""


class SparkMemoryError(QarmError):
    """Spark ran out of memory or lost an executor."""


#: How Python prints one of the errors above at the end of a task's traceback.
_RAISED_IN_TASK = re.compile(r"^\s*qarm\.errors\.(\w+): (.+)$", re.MULTILINE)
#: How Spark reports that the JVM's memory is too small, in the midst of long traces.
_OUT_OF_MEMORY = re.compile(r"(?:OutOfMemoryError|TaskResultLost|Java heap space).*")
#: How Spark reports a Python worker that was killed, by the system where memory is short.
_WORKER_GONE = re.compile(r"Python worker exited unexpectedly \(crashed\)")
#: A disk's refusal: how Python's and Java's errors report it -> what to do.
_REFUSALS = {
    "No space left on device": "Make room, then run the same command again",
    "Disk quota exceeded": "Make room, then run the same command again",
    "Read-only file system": "Write the lake to another folder (--lake)",
    "Permission denied": "Check the owner and the permissions of that folder",
}
_REFUSED = re.compile(rf"[^\n]*(?:{'|'.join(_REFUSALS)})[^\n]*")
_UNREADABLE = re.compile(r"\[FAILED_READ_FILE[^\n]*")
#: Exit code of a process that writes to a closed pipe, as shells have it: a stage may have stopped.
_BROKEN_PIPE = 141
_CAUSE = re.compile(r"^Caused by: (?:[\w.$]+: )?(.+)$", re.MULTILINE)


def plain_form(error: Exception) -> QarmError | None:
    """The error behind Spark's report of it, if it is one that a user can act on.

    Args:
        error: as Spark raised it. Its text holds the traceback of the task, or of the JVM.
    """
    text = str(error)
    if raised := _RAISED_IN_TASK.search(text):
        kind = globals().get(raised[1])
        if isinstance(kind, type) and issubclass(kind, QarmError):
            return kind(raised[2].strip())
    if reported := _OUT_OF_MEMORY.search(text):
        return SparkMemoryError(
            "Spark had too little memory, or lost an executor. On one machine, give it more in the "
            'configuration (section [spark]: "spark.driver.memory" = "8g"); under spark-submit, by '
            f"--driver-memory and --executor-memory. Spark reported: {reported[0][:200]}"
        )
    if _WORKER_GONE.search(text):
        return SparkMemoryError(
            "a Python worker of Spark was ended from outside, as the system does where memory is "
            "short; nothing was published. Run the same command again, with fewer slots (--master "
            "local[2]) or, on a cluster, more spark.executor.memoryOverhead"
        )
    refusal = _REFUSED.search(text)
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
    if refusal and (not isinstance(error, OSError) or error.errno in numbers):
        words = next(words for words in _REFUSALS if words in refusal[0])
        return StorageError(
            f"{_brief(refusal[0])}. {_REFUSALS[words]}; the stage published nothing"
        )
    if failed := _UNREADABLE.search(text):
        return InputError(f"{_brief(failed[0])} {_last_cause(text)}")
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | BrokenPipeError):
        return StorageError(
            f"a file or store could not be reached ({error}); the stage published nothing. Run the "
            "same command again"
        )
    return None


def _brief(line: str) -> str:
    """A line without the name of the exception at its beginning."""
    return re.sub(r"^(?:Caused by: )?(?::? ?[\w.$]+(?:Exception|Error): )*", "", line.strip())[:500]


def _last_cause(text: str) -> str:
    causes = _CAUSE.findall(text)
    return causes[-1].strip()[:300] if causes else "no cause was given"


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the error behind Spark's report of it (``plain_form``); other errors pass unchanged."""
    try:
        yield
    except QarmError:
        raise
    except Exception as error:
        plain = plain_form(error)
        if plain is None:
            raise
        raise plain from error


@contextmanager
def _interruptions() -> Iterator[None]:
    """Raise the interruption in place of an error that came while it ended what was open.

    Spark's own ``with`` blocks call the JVM at their end, on the connection that was interrupted.
    """
    try:
        yield
    except Exception as error:
        before: BaseException | None = error
        while before is not None:
            if isinstance(before, KeyboardInterrupt):
                raise before from None
            before = before.__cause__ or before.__context__
        raise


def guarded(action: Callable[[], None]) -> int:
    """Run ``action`` and return the exit code of the process.

    Errors are printed as a sentence. The traceback of one that is not ours goes to a file, whose
    name is printed.
    """
    try:
        with plain_errors(), _interruptions():
            action()
    except QarmError as error:
        sys.stderr.write(f"qarm: {type(error).__name__}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("qarm: interrupted; run the same command again to continue\n")
        return 130
    except BrokenPipeError:  # `qarm settings | head`: nobody reads the rest
        # Otherwise Python reports it again when it flushes the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        sys.stderr.write(f"qarm: {_unexpected(error)}\n")
        return 1
    return 0


def _unexpected(error: Exception) -> str:
    """The sentence for an error that nothing above knows; its traceback goes to a file."""
    text = "".join(traceback.format_exception(error))
    handle, path = tempfile.mkstemp(prefix="qarm-", suffix=".trace.txt")
    with os.fdopen(handle, "w", errors="replace") as file:
        file.write(text)
    lines = [line for line in str(error).splitlines() if line.strip()]
    first = next((line for line in lines if "An error occurred while calling" not in line), "")
    cause = "".join(f" ({found.strip()[:300]})" for found in _CAUSE.findall(str(error))[-1:])
    return (
        f"unexpected {type(error).__name__}: {_brief(first.removeprefix(': '))}{cause}. The trace "
        f"is in {path}; if the input is as the documentation asks, this is a bug: please report it "
        "with that file"
    )
