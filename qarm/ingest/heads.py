"""The first bytes of the user's files: are they what they are read as, and do they agree?

Spark looks at one file of a folder and reads the others the same way: a column that only some files
have becomes null there, or the job fails far away from the cause. So each file's head (the header
of CSV, the footer of Parquet, the first character of JSON) is read before Spark opens any.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from qarm.errors import InputError
from qarm.lake import files

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

#: Bytes read of each CSV or JSON file.
_BYTES = 1 << 16
#: What Spark unpacks by itself.
_PACKED = {".gz": "gzip", ".bz2": "bz2"}
#: More files than these are read by Spark's tasks.
_MANY = 64
#: What compressed and other files begin with; what to do about them.
_MAGIC = {
    b"PK\x03\x04": "is a zip archive; unpack it (.gz and .bz2 are read as they are)",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd, which Spark cannot read; compress it by gzip",
    b"\x1f\x8b": "is compressed by gzip; let its name end in .gz",
    b"BZh": "is compressed by bzip2; let its name end in .bz2",
    b"PAR1": "is a Parquet file; set the format to parquet",
    b"\x7fELF": "is a program",
    b"%PDF": "is a PDF document",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Head:
    """What the beginning of a file tells."""

    name: str
    problem: str | None = None
    """Why it cannot be read: ``is ...``."""
    empty: bool = False
    columns: tuple[tuple[str, str], ...] | None = None
    """(Name, type) of each column; CSV has no types. None: not known, or without a header."""


def check_heads(
    spark: SparkSession,
    names: Sequence[str],
    kind: str,
    field: str,
    csv_options: Mapping[str, str],
) -> None:
    """Check that files are of format ``kind`` and have the same columns.

    Args:
        spark: the session; its tasks read the heads of many files.
        names: URIs of the files.
        kind: parquet, csv or jsonl.
        field: setting that names the files, for messages.
        csv_options: options of Spark's CSV reader that the user gives.

    Raises:
        InputError: names the first file that cannot be read or has other columns, and how.
    """
    options = {name.lower(): value for name, value in csv_options.items()}

    def read(name: str) -> Head:
        return read_head(name, kind, options)

    heads = _each(spark, names, read)
    for head in heads:
        if head.problem is not None:
            raise InputError(f"{field}: {head.name} {head.problem}")
    if all(head.empty for head in heads):
        raise InputError(f"{field}: {heads[0].name} is empty; expected at least one row")
    known = [head for head in heads if head.columns is not None]
    for head in known[1:]:
        _compare(known[0], head, field)


def read_head(name: str, kind: str, options: Mapping[str, str]) -> Head:
    """The head of one file; ``options`` are those of the CSV reader, names in lower case."""
    if kind == "parquet":
        return _parquet(name)
    packed = next((kind for ending, kind in _PACKED.items() if name.lower().endswith(ending)), None)
    with files.open_file(name, compression=packed, block_bytes=_BYTES) as file:
        try:
            start = bytes(file.read(_BYTES))
        except (OSError, EOFError, zlib.error) as error:
            if packed is None:
                raise
            return Head(name, problem=f"cannot be unpacked: {error}")
    if not start:
        return Head(name, empty=True)
    for magic, problem in _MAGIC.items():
        if start.startswith(magic):
            return Head(name, problem=problem)
    return _json(name, start) if kind == "jsonl" else _csv(name, start, options)


def _each(spark: SparkSession, names: Sequence[str], read: Callable[[str], Head]) -> Sequence[Head]:
    if len(names) <= _MANY:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(read, names))
    slices = min(len(names) // 16, 512)
    return spark.sparkContext.parallelize(names, slices).map(read).collect()


def _compare(first: Head, other: Head, field: str) -> None:
    """Raise InputError where two files differ in columns or types."""
    a, b = _by_name(first), _by_name(other)
    if a.keys() != b.keys():
        lacks, extra = [n for n in a if n not in b], [n for n in b if n not in a]
        raise InputError(
            f"{field}: all files must have the same columns as {first.name}; {other.name} lacks "
            f"{lacks} and has {extra} in addition; rename or add the columns in {other.name}, or "
            "remove the file"
        )
    for name in a:
        if a[name] != b[name]:
            raise InputError(
                f"{field}: column {name!r} is of type {a[name]} in {first.name}, of type "
                f"{b[name]} in {other.name}; expected one type: write both files with the same type"
            )


def _by_name(head: Head) -> dict[str, str]:
    """Column -> type; names of CSV in lower case, as Spark compares them."""
    columns = head.columns or ()
    return {name if kind else name.lower(): kind for name, kind in columns}


def _is_utf16(start: bytes) -> bool:
    """Whether it begins with the mark of UTF-16, or every second byte or so is NUL."""
    return start.startswith(_UTF16) or start[:1000].count(0) * 3 >= len(start[:1000])


def _json(name: str, start: bytes) -> Head:
    if _is_utf16(start):
        return Head(name, problem="looks like UTF-16; convert it to UTF-8")
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return Head(
            name,
            problem="is a JSON array; expected JSON lines, one object per line (jq -c '.[]' makes "
            "them)",
        )
    return Head(name)


def _csv(name: str, start: bytes, options: Mapping[str, str]) -> Head:
    encoding = options.get("encoding", options.get("charset"))
    if encoding is None:
        if _is_utf16(start):
            return Head(
                name,
                problem='looks like UTF-16; set csv_options = { encoding = "UTF-16" }, or convert '
                "it to UTF-8",
            )
        encoding = "utf-8"
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # with or without a byte order mark
    separator = options.get("sep", options.get("delimiter", ","))
    quote = options.get("quote", '"')
    by_position = options.get("enforceschema", "false").lower() == "true"
    no_header = options.get("header", "true").lower() != "true"
    if by_position or no_header or options.keys() & {"comment", "linesep"}:
        return Head(name)
    if len(separator) != 1 or len(quote) > 1:
        return Head(name)  # Python's reader has none of these
    try:
        decoded = start.decode(encoding, errors="replace")
    except LookupError:
        return Head(name)  # an encoding that Java alone may know
    if len(start) == _BYTES and "\n" not in decoded and "\r" not in decoded:
        return Head(name)  # the header is longer than what was read
    text = io.StringIO(decoded, newline="")
    quoting = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    try:
        header = next((row for row in csv.reader(text, delimiter=separator, **quoting) if row), [])
    except (csv.Error, UnicodeError):
        return Head(name)
    names = [column.strip().lower() for column in header]
    for n, column in enumerate(header):
        first = names.index(names[n])
        if names[n] and first < n:
            return Head(
                name,
                problem=f"has column {header[first]!r} and column {column!r} (columns {first + 1} "
                f"and {n + 1}); names must differ, and not in upper and lower case alone: rename "
                "one",
            )
    return Head(name, columns=tuple((column, "") for column in header))


def _parquet(name: str) -> Head:
    import pyarrow as pa
    from pyarrow import parquet

    with files.open_file(name, block_bytes=_BYTES) as file:
        problem = _no_parquet(file)
        if problem is not None:
            return Head(name, problem=problem)
        try:
            schema = parquet.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            if "LogicalType" in line:
                line = (
                    "a column has a type that Spark cannot read, probably float16 (half "
                    "precision); write it as float32"
                )
            return Head(name, problem=f"cannot be read as parquet: {line}")
    return Head(name, columns=tuple((column.name, _spelled(column.type)) for column in schema))


def _no_parquet(file: IO[Any]) -> str | None:
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        return "is empty (0 bytes), which no Parquet file is; remove it, or write it again"
    file.seek(max(size - 4, 0))
    last = file.read(4)
    file.seek(0)
    first = file.read(4)
    file.seek(0)
    if first != b"PAR1":
        return "cannot be read as parquet: it does not begin with PAR1"
    if last != b"PAR1":
        return (
            f"cannot be read as parquet: its {size:,} bytes do not end with PAR1, so that it is "
            "cut short; copy or write it again"
        )
    return None


def _values(kind: pa.DataType) -> pa.DataType:
    """Type of the elements of a list; other types unchanged."""
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return kind.value_type if any(is_one(kind) for is_one in lists) else kind


def _spelled(kind: pa.DataType) -> str:
    """The type as Spark distinguishes it."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind):
        # Spark reads seconds, milliseconds and microseconds alike.
        unit = "ns" if kind.unit == "ns" else "us"
        return f"timestamp[{unit}{', UTC' if kind.tz else ''}]"
    element = _values(kind)
    if element is not kind:
        return f"list<{_spelled(element)}>"
    if pa.types.is_map(kind):
        return f"map<{_spelled(kind.key_type)}, {_spelled(kind.item_type)}>"
    if pa.types.is_struct(kind):
        fields = sorted(f"{field.name}: {_spelled(field.type)}" for field in kind)
        return f"struct<{', '.join(fields)}>"
    return str(kind).removeprefix("large_")
