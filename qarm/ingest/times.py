"""Times: from the formats of a log to UTC timestamps, and between datetimes and microseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from qarm.config.log import TimeFormat
from qarm.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pyspark.sql import Column

#: 0001-01-01 and 9999-12-31 in epoch microseconds. Numbers outside are in another unit; the last
#: day stands for "no date" in databases, and Python's calendar ends with it.
_FIRST_MICROS, _END_MICROS = -62_135_596_800_000_000, 253_402_214_400_000_000
#: Spark also reads a time without a date, as one of today, and dates of seven digits.
_DATE_FIRST = r"^\s*\d{4}(-\d{1,2}(-\d{1,2}([T ].*)?)?)?\s*$"
_MICROS_PER_UNIT = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1, "order": 1_000_000}
_EPOCH = datetime(1970, 1, 1)


def instant(value: Column, kind: str, time_format: TimeFormat, where: str) -> Column:
    """The time of a row (timestamp, UTC); null if it cannot be parsed.

    Args:
        value: the source's column.
        kind: its Spark SQL type.
        time_format: see log.time_format; ``order``: positions, read as seconds after 1970.
        where: file and column, for the message.

    Raises:
        InputError: a column of this type cannot hold times of that format.
    """
    from pyspark.sql import functions as F

    if time_format == "timestamp":
        if kind not in ("timestamp", "timestamp_ntz", "date"):
            raise InputError(
                f"{where} is of type {kind}, expected a timestamp; set log.time_format to iso for "
                "text, or to epoch_s, epoch_ms, epoch_us or order for numbers"
            )
        return _inside(value.cast("timestamp"))
    if time_format == "iso":
        if kind in ("timestamp", "timestamp_ntz", "date"):  # a reader has parsed it already
            return _inside(value.cast("timestamp"))
        if kind != "string":
            raise InputError(f"{where} is of type {kind}, expected ISO 8601 text")
        return _inside(F.try_to_timestamp(F.when(value.rlike(_DATE_FIRST), value)))
    if kind.split("(")[0] not in (
        *("tinyint", "smallint", "int", "bigint", "float", "double", "decimal", "string"),
    ):
        raise InputError(f"{where} is of type {kind}, expected a number for {time_format}")
    exact = value.try_cast("decimal(30,6)") * F.lit(_MICROS_PER_UNIT[time_format])
    micros = F.round(exact, 0)
    inside = (micros >= _FIRST_MICROS) & (micros < _END_MICROS)
    return F.timestamp_micros(F.when(inside, micros.cast("bigint")))


def _inside(moment: Column) -> Column:
    from pyspark.sql import functions as F

    micros = F.unix_micros(moment)
    return F.when((micros >= _FIRST_MICROS) & (micros < _END_MICROS), moment)


def parse_iso(text: str, field: str) -> datetime:
    """ISO text as naive UTC.

    Raises:
        ConfigError: it is not ISO text; names ``field``.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{field} = {text!r} is not an ISO date or time such as 2026-11-23T04:00:00"
        ) from error
    if parsed.tzinfo is not None:
        parsed = parsed.astimezone(UTC).replace(tzinfo=None)
    return parsed


def micros_of(moment: datetime) -> int:
    """Epoch microseconds of a naive UTC datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """Naive UTC datetime of epoch microseconds."""
    return _EPOCH + timedelta(microseconds=micros)
