"""Errors that a user can act on, and the exit code of each.

Every message says what was expected, what was seen, where, and what to do. The CLI and the jobs
print the message without a traceback and leave with ``exit_code``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class QarmError(Exception):
    """Base of all errors that are the input's or the environment's, not a bug of ours."""

    exit_code = 1


class ConfigError(QarmError):
    """The configuration cannot be used; the message names the field."""

    exit_code = 2


class InputError(QarmError):
    """A source file, column or value cannot be used."""

    exit_code = 3


class SchemaError(InputError):
    """A table does not have the columns that its schema asks for."""


class GateError(QarmError):
    """A gate of the configuration stopped the run; nothing was published."""

    exit_code = 4


class RowsLostError(QarmError):
    """Rows in are not rows out plus rows dropped for a reason: a fault, never to be ignored."""

    exit_code = 5


class TrainingError(QarmError):
    """A rank failed, stalled, or read other rows than it should have."""

    exit_code = 6


class MissingStageError(QarmError):
    """A stage was started before the one that makes its inputs."""

    exit_code = 7


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise a QarmError of a Spark task as itself, not wrapped in Spark's report of the failure."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        for line in str(error).splitlines():
            name, _, message = line.strip().partition(": ")
            kind = globals().get(name.removeprefix(f"{__name__}."))
            if isinstance(kind, type) and issubclass(kind, QarmError):
                raise kind(message) from error
        raise
