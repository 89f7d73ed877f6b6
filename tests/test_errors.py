"""How errors reach a person: exit codes, messages without tracebacks, errors of Spark tasks."""

from __future__ import annotations

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
    with pytest.raises(ZeroDivisionError):
        guarded(_raise(ZeroDivisionError()))


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
    with pytest.raises(Exception, match="division by zero"), plain_errors():
        spark.range(3).mapInArrow(lambda batches: [1 / 0], "id bigint").collect()
