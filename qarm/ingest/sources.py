"""Open the user's files: Parquet, CSV, JSON lines or Delta, by configuration alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

from qarm.errors import InputError
from qarm.lake import files

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

#: Column with the file that a row came from.
FILE = "__file"

_ENDINGS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_COMPRESSED = (".gz", ".bz2", ".zst")


def open_files(
    spark: SparkSession,
    uris: Sequence[str],
    *,
    field: str,
    file_format: str = "auto",
    csv_options: Mapping[str, str] | None = None,
    text_columns: Sequence[str] | None = None,
) -> DataFrame:
    """All rows of ``uris`` with their own columns and ``FILE``.

    Args:
        spark: the session.
        uris: files, folders, globs or Delta tables with the same columns.
        field: setting that names them, for messages, such as ``log.path``.
        file_format: ``auto`` goes by the ending.
        csv_options: options of Spark's CSV reader beside ``header``.
        text_columns: CSV columns that stay text whatever they look like (ids keep their zeros);
            None: all. The others get the type that fits all their values.

    Raises:
        InputError: nothing there, unreadable, of unknown format, or of differing columns.
    """
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    if not uris:
        raise InputError(f"{field} is empty; name at least one file")
    union: DataFrame | None = None
    for uri in uris:
        kind = detect_format(uri, field) if file_format == "auto" else file_format
        if kind != "delta" and not files.describe(uri):
            raise InputError(f"{field}: no file at {uri}; check the path")
        frame = _open(spark, uri, kind, field, csv_options or {}, text_columns)
        frame = frame.withColumn(FILE, F.input_file_name())
        try:
            union = frame if union is None else union.unionByName(frame)
        except AnalysisException as error:
            assert union is not None
            raise InputError(
                f"{field}: the files must have the same columns; {uris[0]} has "
                f"{visible(union)}, {uri} has {visible(frame)}"
            ) from error
    assert union is not None
    return union


def detect_format(uri: str, field: str) -> str:
    """parquet, csv, jsonl or delta, by ``_delta_log`` or the ending of the (first) file.

    Raises:
        InputError: nothing there, or an ending that says nothing.
    """
    if "_delta_log" in files.list_dir(uri):
        return "delta"
    names = [str(entry["name"]) for entry in files.describe(uri)]
    names = [n for n in names if not n.rsplit("/", 1)[-1].startswith(("_", "."))]
    if not names:
        raise InputError(f"{field}: no file at {uri}; check the path")
    for name in names:
        stem = name.lower()
        for ending in _COMPRESSED:
            stem = stem.removesuffix(ending)
        for ending, kind in _ENDINGS.items():
            if stem.endswith(ending):
                return kind
    section = field.split(".")[0] if field.startswith("items") else "log"
    raise InputError(
        f"{field}: the ending of {names[0]} does not tell its format; set {section}.format to "
        f"parquet, csv, jsonl or delta (known endings: {', '.join(_ENDINGS)})"
    )


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
        return _open_csv(spark, uri, csv_options, text_columns)
    except (PySparkException, Py4JJavaError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{field}: {uri} cannot be read as {kind}: {first}") from error


def _open_csv(
    spark: SparkSession,
    uri: str,
    options: Mapping[str, str],
    text_columns: Sequence[str] | None,
) -> DataFrame:
    from pyspark.sql.types import StringType, StructField, StructType

    # A header that differs between files is an error, not a column read under another's name.
    plain = spark.read.options(**{"header": "true", "enforceSchema": "false", **options})
    if text_columns is None:
        return plain.csv(uri)
    inferred = spark.read.options(**{"header": "true", "inferSchema": "true", **options}).csv(uri)
    fields = [
        StructField(f.name, StringType()) if f.name in text_columns else f for f in inferred.schema
    ]
    return plain.schema(StructType(fields)).csv(uri)


def _nanos_to_micros(df: DataFrame) -> DataFrame:
    """Turn nanosecond timestamps, which Spark reads as longs, into timestamps (UTC, microseconds).

    Longs that really are longs stay so: the footer of one file tells them apart.
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
            # pmod first: div rounds towards zero, and instants before 1970 must not move up.
            quoted = quote(name)
            micros = F.expr(f"({quoted} - pmod({quoted}, 1000L)) div 1000L")
            df = df.withColumn(name, F.timestamp_micros(micros))
    return df


def column(name: str) -> Column:
    """The top-level column of that exact name, dots and spaces included."""
    from pyspark.sql import functions as F

    return F.col(quote(name))


def quote(name: str) -> str:
    """The name in backticks, for SQL."""
    return "`" + name.replace("`", "``") + "`"


def visible(df: DataFrame) -> list[str]:
    """The source's own columns, without ours."""
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
    seen = visible(df)
    missing = [
        f"{field} = {name!r}{nearest(name, seen)}"
        for field, name in wanted.items()
        if name not in seen
    ]
    if missing:
        raise InputError(f"{where} has no column for {'; '.join(missing)}. Columns seen: {seen}")


def nearest(name: str, seen: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` for the likeliest of ``seen``, or nothing."""
    lower = {s.lower(): s for s in seen}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.5)
    return f" (did you mean {lower[near[0]]!r}?)" if near else ""
