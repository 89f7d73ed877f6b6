"""Open the user's files: Parquet, CSV, JSON lines or Delta."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from qarm.errors import InputError, plain_form
from qarm.ingest.csv_quotes import Marks, check_closed, swallows
from qarm.ingest.file_formats import detect_format, readable_files
from qarm.ingest.heads import check_heads
from qarm.lake import files

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

#: Column with the file that a row came from.
FILE = "__file"
#: Column with the text of a row that does not fit its file, else null; the name is Spark's.
#: CSV always has it, JSON lines only if a line is broken.
MALFORMED = "_corrupt_record"

#: Longest value of a CSV file, unless csv_options set another limit.
_CELL_CHARACTERS = 1_000_000


def open_files(
    spark: SparkSession,
    uris: Sequence[str],
    *,
    field: str,
    file_format: str = "auto",
    csv_options: Mapping[str, str] | None = None,
    text_columns: Sequence[str] | None = None,
) -> DataFrame:
    """All rows of ``uris`` with their own columns and ``FILE``, and perhaps with ``MALFORMED``.

    CSV is read as RFC 4180 defines it: a quote inside quotes is doubled, and quoted values may
    contain separators and newlines. A row is malformed if it has too few or too many columns, a
    value that does not fit the type of its column, or an unclosed quote that swallows further rows.
    Such a row has its text in ``MALFORMED`` and null in all other columns: its values may have
    shifted.

    Args:
        spark: the session.
        uris: files, folders, globs or Delta tables with the same columns.
        field: setting that names them, for messages, such as ``log.path``.
        file_format: ``auto``: by the file name's ending.
        csv_options: options of Spark's CSV reader; they override ours.
        text_columns: CSV columns that stay text, so that ids keep leading zeros; None: all. Other
            columns get the type that fits all their values in well-formed rows.

    Raises:
        InputError: nothing there, unreadable, of unknown format, of differing columns or types, or
            truncated inside a quoted value.
    """
    from pyspark.sql import functions as F

    if not uris:
        raise InputError(f"{field} is empty; name at least one file")
    union: DataFrame | None = None
    for uri in uris:
        kind = detect_format(uri, field) if file_format == "auto" else file_format
        if kind != "delta":
            names = readable_files(uri, field)
            check_heads(spark, names, kind, field, csv_options or {})
            if kind == "csv" and (odd := [name for name in names if set(name) & set("[]{}*?")]):
                raise InputError(
                    f"{field}: {odd[0]} has one of [ ] {{ }} * ? in its path, which Spark's "
                    "CSV reader takes for a pattern; rename the file or folder"
                )
        with partitions_as_text(spark):
            frame = _open(
                spark, files.hadoop_path(uri), kind, field, csv_options or {}, text_columns
            )
        frame = frame.withColumn(FILE, F.input_file_name())
        union = frame if union is None else append(union, frame, field, uris[0], uri)
    assert union is not None
    return union


@contextmanager
def partitions_as_text(spark: SparkSession) -> Iterator[None]:
    """Values in folder names such as ``item_id=0012`` stay text; Spark would read 12."""
    name = "spark.sql.sources.partitionColumnTypeInference.enabled"
    before = spark.conf.get(name)
    spark.conf.set(name, "false")
    try:
        yield
    finally:
        spark.conf.set(name, str(before))


def append(union: DataFrame, frame: DataFrame, field: str, first: str, name: str) -> DataFrame:
    """The rows of both frames, columns matched by name.

    Args:
        union: the rows so far.
        frame: rows to add.
        field: setting that names both, for messages.
        first: name of the first file in ``union``, for messages.
        name: name of ``frame``, for messages.

    Raises:
        InputError: one has columns that the other lacks, or types of a column that do not mix.
            (Filled with nulls, a label column that one file lacks would be false in its rows.)
    """
    from pyspark.sql import functions as F

    kinds, others = ({f.name: f.dataType for f in df.schema} for df in (union, frame))
    if MALFORMED in kinds.keys() ^ others.keys():
        empty = F.lit(None).cast("string")
        if MALFORMED in kinds:
            frame = frame.withColumn(MALFORMED, empty)
        else:
            union = union.withColumn(MALFORMED, empty)
    missing = [n for n in kinds if n not in others and n != MALFORMED]
    extra = [n for n in others if n not in kinds and n != MALFORMED]
    if missing or extra:
        raise InputError(
            f"{field}: all files must have the same columns as {first}; {name} lacks {missing} and "
            f"has {extra} in addition; rename or add the columns in {name}, or remove the file"
        )
    for column_name in kinds.keys() & others.keys():
        kind, other = kinds[column_name], others[column_name]
        if kind != other and _family(kind) != _family(other):
            raise InputError(
                f"{field}: column {column_name!r} is of type {kind.simpleString()} in {first}, of "
                f"type {other.simpleString()} in {name}; expected one type: correct the values of "
                "one file, or write both with the same type"
            )
    return union.unionByName(frame)


def _family(kind: Any) -> str:
    """Types of one family can be widened to a common type without loss."""
    from pyspark.sql import types as T

    if isinstance(kind, T.NumericType):
        return "number"
    if isinstance(kind, T.DateType | T.TimestampType | T.TimestampNTZType):
        return "time"
    return str(kind.simpleString())


def _open(
    spark: SparkSession,
    uri: str,
    kind: str,
    field: str,
    csv_options: Mapping[str, str],
    text_columns: Sequence[str] | None,
) -> DataFrame:
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        if kind == "parquet":
            return _nanos_to_micros(spark.read.parquet(uri))
        if kind == "delta":
            return spark.read.format("delta").load(uri)
        if kind == "jsonl":
            return spark.read.json(uri)
        return _open_csv(spark, uri, field, csv_options, text_columns)
    except (PySparkException, Py4JJavaError) as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("An error occ")]
        seen = lines[0].removeprefix(": ") if lines else type(error).__name__
        if plain := plain_form(error):
            seen = str(plain)
        if "exceeds the maximum number of characters" in str(error):
            section = "items" if field.startswith("items") else "log"
            seen = (
                "a value is longer than maxCharsPerColumn, perhaps because a quote is not closed: "
                f"correct it, or set quote, escape or maxCharsPerColumn in {section}.csv_options"
            )
        raise InputError(f"{field}: {uri} cannot be read as {kind}: {seen}") from error


def _open_csv(
    spark: SparkSession,
    uri: str,
    field: str,
    options: Mapping[str, str],
    text_columns: Sequence[str] | None,
) -> DataFrame:
    from pyspark.sql import functions as F
    from pyspark.sql.types import StringType, StructField, StructType

    given = {name.lower(): value for name, value in options.items()}
    reading = {
        "header": "true",
        # Different headers are an error; otherwise columns would be read under wrong names.
        "enforceSchema": "false",
        # Spark's defaults are a backslash before quotes, and one row per line.
        "multiLine": "true",
        "quote": '"',
        "escape": given.get("quote", '"'),
        # An unclosed quote swallows the rows after it: it must not swallow a large file.
        "maxCharsPerColumn": str(_CELL_CHARACTERS),
        **options,
        "columnNameOfCorruptRecord": MALFORMED,
    }

    def read(fields: Sequence[StructField]) -> DataFrame:
        schema = StructType([*fields, StructField(MALFORMED, StringType())])
        return spark.read.options(**reading).schema(schema).csv(uri)

    if text_columns is None:
        fields = spark.read.options(**reading).csv(uri).schema.fields
    else:
        fields = spark.read.options(**{**reading, "inferSchema": "true"}).csv(uri).schema.fields
        texts = [StructField(f.name, StringType()) for f in fields]
        fields = [texts[i] if f.name in text_columns else f for i, f in enumerate(fields)]
        # Shifted values of a malformed row turn a column of numbers or times into text.
        doubtful = any(f in texts and f.name not in text_columns for f in fields)
        # All columns are collected: Spark does not read MALFORMED alone.
        if doubtful and read(texts).where(column(MALFORMED).isNotNull()).limit(1).collect():
            kinds = _types_of_good_rows(spark, read(texts), options)
            fields = [
                f if f.name in text_columns else StructField(f.name, kinds.get(f.name, f.dataType))
                for f in fields
            ]
    rows, marks = read(fields), Marks.of(reading)
    malformed = column(MALFORMED)
    values = [column(f.name) for f in fields if isinstance(f.dataType, StringType)]
    if marks.spans_lines and values:
        if isinstance(fields[-1].dataType, StringType):
            check_closed(rows, column(fields[-1].name), marks, field)
        swallowed = reduce(or_, (swallows(value, marks) for value in values))
        whole = F.to_csv(F.struct(*[column(f.name) for f in fields]))
        malformed = F.coalesce(malformed, F.when(swallowed, whole))
    return rows.select(
        *[F.when(malformed.isNull(), column(f.name)).alias(f.name) for f in fields],
        malformed.alias(MALFORMED),
    )


def _types_of_good_rows(
    spark: SparkSession, texts: DataFrame, options: Mapping[str, str]
) -> dict[str, Any]:
    """Column -> the type that Spark infers from the rows of ``texts`` that are not malformed."""
    from pyspark.sql import functions as F

    names = [name for name in texts.columns if name != MALFORMED]
    plain = {"sep": ",", "quote": '"', "escape": '"'}
    line = F.to_csv(F.struct(*[column(name) for name in names]), plain)
    lines = texts.where(column(MALFORMED).isNull()).select(line).rdd.map(lambda row: row[0])
    reading = {**options, **plain, "header": "false", "inferSchema": "true"}
    # Spark's annotation lacks the RDD of lines that its documentation allows.
    inferred = spark.read.options(**reading).csv(lines).schema  # type: ignore[arg-type]
    return dict(zip(names, [f.dataType for f in inferred], strict=False))  # no row: no type


def _nanos_to_micros(df: DataFrame) -> DataFrame:
    """Nanosecond timestamps, which Spark reads as longs, as timestamps (UTC, microseconds).

    Columns of integers stay unchanged: the footer of one file distinguishes them.
    """
    from pyspark.sql import functions as F

    longs = [f.name for f in df.schema if f.dataType.simpleString() == "bigint"]
    if not longs:
        return df
    import pyarrow as pa
    from pyarrow import parquet

    with files.open_file(unquote(df.inputFiles()[0])) as file:
        arrow = parquet.read_schema(file)
    for name in longs:
        kind = arrow.field(name).type if name in arrow.names else None
        if kind is not None and pa.types.is_timestamp(kind) and kind.unit == "ns":
            # div rounds towards zero, which would move times before 1970 up; hence pmod first.
            quoted = quote(name)
            micros = F.expr(f"({quoted} - pmod({quoted}, 1000L)) div 1000L")
            df = df.withColumn(name, F.timestamp_micros(micros))
    return df


def column(name: str) -> Column:
    """The top-level column of that exact name, which may contain dots and spaces."""
    from pyspark.sql import functions as F

    return F.col(quote(name))


def quote(name: str) -> str:
    """The name in backticks, for SQL."""
    return "`" + name.replace("`", "``") + "`"


def visible(df: DataFrame) -> list[str]:
    """The source's own columns, and ``MALFORMED`` if present; without ``FILE``."""
    return [name for name in df.columns if name != FILE]


def require_columns(df: DataFrame, wanted: Mapping[str, str], where: str) -> None:
    """Check that every named column is there.

    Args:
        df: the source.
        wanted: setting -> column, such as ``{"log.user": "user_id"}``.
        where: the file, for the message.

    Raises:
        InputError: lists each setting with its column, the nearest name, and the columns seen.
    """
    seen = [name for name in visible(df) if name != MALFORMED]
    missing = [
        f"{field} = {name!r}{nearest(name, seen)}"
        for field, name in wanted.items()
        if name not in seen
    ]
    if missing:
        raise InputError(
            f"{where} has no column for {'; '.join(missing)}. Columns seen: {seen}{_hint(seen)}"
        )


def _hint(seen: Sequence[str]) -> str:
    """What the names of columns tell about a CSV file that was read with the wrong options."""
    if not seen:
        return ". No row has any column: expected one JSON object per line"
    for separator in (";", "\t", "|"):
        if len(seen) == 1 and separator in seen[0]:
            shown = "\\t" if separator == "\t" else separator
            return f'. The separator seems to be another: set csv_options = {{ sep = "{shown}" }}'
    if any(re.fullmatch(r"[-+\d.:T ]*\d[-+\d.:TZ ]*", name) for name in seen):
        return (
            ". These look like values: if the file has no header, set csv_options = { header = "
            '"false" }; columns are then called _c0, _c1 and so on'
        )
    return ""


def nearest(name: str, seen: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` for the most similar of ``seen``, or an empty string."""
    lower = {s.lower(): s for s in seen}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.5)
    return f" (did you mean {lower[near[0]]!r}?)" if near else ""
