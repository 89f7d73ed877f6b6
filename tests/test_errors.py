"""How errors reach a person: exit codes, messages without tracebacks, errors of Spark tasks."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qarm.errors import (
    ConfigError,
    GateError,
    InputError,
    QarmError,
    SparkMemoryError,
    guarded,
    plain_errors,
    plain_form,
)


def _raise(error: BaseException):
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("x"), 2), (InputError("x"), 3), (GateError("x"), 4)]
)
def test_errors_of_the_user_are_a_line_and_an_exit_code(error: QarmError, code: int, capsys):
    assert guarded(_raise(error)) == code
    assert capsys.readouterr().err == f"qarm: {type(error).__name__}: x\n"


def test_success_interruption_and_bugs(capsys) -> None:
    assert guarded(lambda: None) == 0
    assert guarded(_raise(KeyboardInterrupt())) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_an_error_that_an_interruption_causes_is_the_interruption(capsys) -> None:
    """As where the JVM does not answer the calls that end what was open."""

    def action() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise ConnectionError("Answer from Java side is empty")

    assert guarded(action) == 130
    assert capsys.readouterr().err.startswith("qarm: interrupted;")


def test_what_nothing_knows_is_a_sentence_and_the_trace_is_in_a_file(capsys) -> None:
    text = "An error occurred while calling o12.x.\n: java.lang.IllegalStateException: odd\n\tat y"
    assert guarded(_raise(RuntimeError(f"{text}\nCaused by: a.B: the cause\n"))) == 1
    err = capsys.readouterr().err
    assert err.startswith("qarm: unexpected RuntimeError: odd (the cause). The trace is in ")
    assert "Traceback" not in err
    path = re.search(r"in (\S+\.trace\.txt);", err)
    assert path is not None
    assert "\tat y" in Path(path[1]).read_text()
    Path(path[1]).unlink()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "'/x/y'. Make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "Check the owner"),
        (RuntimeError("x\nCaused by: java.io.IOException: No space left on device"), "Make room"),
        (RuntimeError("java.io.FileNotFoundException: /x (Read-only file system)"), "--lake"),
        (ConnectionError("503 Slow Down"), "could not be reached (503 Slow Down)"),
    ],
)
def test_disks_that_refuse(error, words, capsys) -> None:
    assert guarded(_raise(error)) == 1
    err = capsys.readouterr().err
    assert err.startswith("qarm: StorageError: ")
    assert words in err


def test_a_file_that_spark_cannot_read_comes_with_the_last_cause() -> None:
    text = (
        "An error occurred while calling o55.count.\n: org.apache.spark.SparkException: "
        "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file a.csv.  SQLSTATE: KD001\n"
        "\tat x\nCaused by: a.B: first\nCaused by: c.D: the cause"
    )
    plain = plain_form(RuntimeError(text))
    assert isinstance(plain, InputError)
    assert "reading file a.csv." in str(plain)
    assert "o55" not in str(plain)
    assert str(plain).endswith("the cause")


def test_a_closed_pipe_is_quiet_and_no_success(capfd) -> None:
    """A stage whose progress nobody reads has stopped half-way."""
    code = "from qarm.errors import guarded; import sys\n"
    code += "def f(): raise BrokenPipeError\n"
    code += "sys.exit(guarded(f))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (141, b"", b"")


def test_too_little_memory_is_reported_in_a_sentence(capsys) -> None:
    lost = "An error\nCaused by: TaskResultLost (result lost from block manager)\n at x"
    assert guarded(_raise(RuntimeError(lost))) == 1
    err = capsys.readouterr().err
    assert "spark.driver.memory" in err
    assert "result lost" in err
    assert " at x" not in err
    with pytest.raises(SparkMemoryError), plain_errors():
        raise RuntimeError("java.lang.OutOfMemoryError: Java heap space")


def test_only_errors_of_qarm_are_unwrapped() -> None:
    assert isinstance(plain_form(RuntimeError("x\n  qarm.errors.GateError: low\n at y")), GateError)
    assert plain_form(RuntimeError("qarm.errors.re: x")) is None
    assert plain_form(RuntimeError("division by zero")) is None


@pytest.mark.spark
def test_errors_of_tasks_arrive_as_themselves(spark) -> None:
    def fail(batches):
        raise InputError("the text backbone gave NaN: see above")

    with (
        pytest.raises(InputError, match=r"^the text backbone gave NaN: see above$"),
        plain_errors(),
    ):
        spark.range(3).mapInArrow(fail, "id bigint").collect()

    def killed(batches):
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        pytest.raises(SparkMemoryError, match="a Python worker of Spark was ended"),
        plain_errors(),
    ):
        spark.range(3).mapInArrow(killed, "id bigint").collect()
    with pytest.raises(Exception, match="division by zero"), plain_errors():
        spark.range(3).mapInArrow(lambda batches: [1 / 0], "id bigint").collect()
