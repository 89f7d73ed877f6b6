"""SQL expressions of the configuration on the log's own columns, checked before any job runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qarm.errors import ConfigError, InputError
from qarm.ingest.sources import nearest, visible

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: Errors that a value of the data raises while a user's expression is evaluated (ANSI SQL).
_VALUE_ERRORS = re.compile(
    r"\[(CAST_INVALID_INPUT|CAST_OVERFLOW|DIVIDE_BY_ZERO|ARITHMETIC_OVERFLOW|INVALID_ARRAY_INDEX"
    r"|NUMERIC_VALUE_OUT_OF_RANGE|CANNOT_PARSE_TIMESTAMP|INVALID_FRACTION_OF_SECOND)[.\w]*\]"
    r"[^\n]*"
)


def condition(raw: DataFrame, sql: str, field: str) -> Column:
    """``sql`` as a boolean column in which null counts as false.

    Raises:
        ConfigError: it does not parse, names an unknown column, aggregates, is not boolean, or
            depends on more than the row.
    """
    from pyspark.sql import functions as F

    kind = _type(raw, sql, field)
    if kind != "boolean":
        raise ConfigError(
            f"{field} = {sql!r} is of type {kind}, expected a condition, such as {sql} = 1"
        )
    return F.coalesce(F.expr(sql), F.lit(False))


def number(raw: DataFrame, sql: str, field: str) -> Column:
    """``sql`` as a double; null where text is not a number.

    Raises:
        ConfigError: it does not parse, names an unknown column, aggregates, is not numeric, or
            depends on more than the row.
    """
    from pyspark.sql import functions as F

    kind = _type(raw, sql, field)
    if kind.split("(")[0] not in (
        *("tinyint", "smallint", "int", "bigint", "float", "double", "decimal", "string", "void"),
    ):
        raise ConfigError(f"{field} = {sql!r} is of type {kind}, expected a number")
    return F.expr(f"try_cast(({sql}) AS double)")


def _type(raw: DataFrame, sql: str, field: str) -> str:
    from pyspark.errors import AnalysisException, ParseException
    from pyspark.sql import functions as F

    try:
        # Next to "*", Spark rejects an aggregate; alone, it would reduce the log to one row.
        evaluated = raw.select("*", F.expr(sql).alias("__it"))
        _refuse_more_than_the_row(evaluated, sql, field)
        return evaluated.schema["__it"].dataType.simpleString()
    except ParseException as error:
        raise ConfigError(f"{field} = {sql!r} is not valid SQL: {_brief(error)}") from error
    except AnalysisException as error:
        named = (error.getMessageParameters() or {}).get("objectName", "").strip("`")
        hint = nearest(named, visible(raw)) if named else ""
        raise ConfigError(
            f"{field} = {sql!r} cannot be evaluated on the log: {_brief(error)}{hint}. "
            f"Columns available: {visible(raw)}"
        ) from error


def _refuse_more_than_the_row(evaluated: DataFrame, sql: str, field: str) -> None:
    """Raise ConfigError if the last column depends on anything but the row that it belongs to."""
    expression = evaluated._jdf.queryExecution().analyzed().expressions().last()
    catalyst = evaluated.sparkSession._jvm.org.apache.spark.sql.catalyst.expressions  # type: ignore[union-attr]
    if catalyst.SubqueryExpression.hasSubquery(expression):
        raise ConfigError(f"{field} = {sql!r} reads a table; expected columns of the row alone")
    if not expression.deterministic():
        raise ConfigError(
            f"{field} = {sql!r} gives another value each time; expected a function of the row's "
            "columns alone: no random numbers, no ids of rows or partitions, no Java methods"
        )


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Raise InputError for an error that a value causes inside a user's expression."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        seen = _VALUE_ERRORS.search(str(error))
        if seen is None:
            raise
        raise InputError(
            f"{where}: a value cannot be evaluated: {seen.group(0)} Use try_cast or nullif in the "
            "expression of the configuration that reads this column."
        ) from error
