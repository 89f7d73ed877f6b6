"""Unclosed quotes in CSV files, which swallow the rows that follow.

Spark's reader accepts them silently. There are two cases:

* A later row has a quoted value. Its opening quote does not close the first one, and the reader
  returns the raw text up to the next separator: a value that starts with a quote and contains a
  line end and a separator before its second quote. ``swallows`` detects it, and the row goes to
  quarantine.
* There is no later quote: the value runs to the end of the file. In a column of numbers or times it
  does not fit the type; in any column but the last, the row lacks columns. Both are malformed rows.
  In a last column of text, ``check_closed`` detects it and stops; a file that was cut off inside a
  value looks the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from qarm.errors import InputError
from qarm.lake import files

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class Marks:
    """Separator and quotes of a CSV file; ``spans_lines``: quoted values may contain line ends."""

    sep: str
    quote: str
    escape: str
    encoding: str
    spans_lines: bool

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Marks:
        """From the complete options of Spark's reader, whose names are case-insensitive."""
        given = {name.lower(): value for name, value in options.items()}
        quote = given["quote"]
        return cls(
            sep=given.get("sep", given.get("delimiter", ",")),
            quote=quote,
            escape=given["escape"],
            encoding=given.get("encoding", given.get("charset", "utf-8")),
            spans_lines=bool(quote) and given["multiline"].lower() == "true",
        )


_TAIL_CHARACTERS = 200
_TAIL_BYTES = 8 * _TAIL_CHARACTERS


def swallows(value: Column, marks: Marks) -> Column:
    """Whether a text value contains the rows after an unclosed quote; false for null.

    A valid value that begins with a quotation of several lines, with a separator after the first
    line, looks the same and is detected too.

    Args:
        value: as read.
        marks: of the file.
    """
    from pyspark.sql import functions as F

    quote, sep = re.escape(marks.quote), re.escape(marks.sep)
    matches = value.rlike(f"^{quote}[^{quote}]*\\n[^{quote}]*{sep}[^{quote}]*{quote}")
    return F.coalesce(value.startswith(marks.quote) & matches, F.lit(False))


def check_closed(rows: DataFrame, last: Column, marks: Marks, field: str) -> None:
    """Reject files whose last value in the last column is quoted and runs to the file's end.

    This reads the files once. For each file with line ends in that column, a short text comes to
    the driver and the end of the file is read again (a compressed file as a whole).

    Args:
        rows: of the files, as the CSV reader returns them.
        last: the last column, text.
        marks: of the files.
        field: setting that names the files, for the message.

    Raises:
        InputError: names the file and the beginning of the open value.
    """
    from pyspark.sql import functions as F

    section = "items" if field.startswith("items") else "log"
    place = F.monotonically_increasing_id()
    ends = (
        rows.select(F.input_file_name().alias("file"), place.alias("place"), last.alias("value"))
        .where(F.col("value").contains("\n"))
        .groupBy("file")
        .agg(
            F.max_by(F.right("value", F.lit(_TAIL_CHARACTERS)), "place").alias("tail"),
            F.max_by(F.left("value", F.lit(60)), "place").alias("start"),
        )
    )
    for row in ends.collect():
        uri = unquote(row["file"])
        if _is_open(_end_of(uri, marks.encoding), row["tail"], marks):
            raise InputError(
                f"{field}: the last value of {uri} is quoted and never closed: it runs to the end "
                f"of the file, and begins with {row['start']!r}. Was the file cut off? Otherwise "
                f"correct that quote, or set quote or escape in {section}.csv_options"
            )


def _end_of(uri: str, encoding: str) -> str:
    """The last characters of a file, decompressed if its name says so."""
    with files.open_file(uri, compression="infer") as file:
        if uri.endswith((".gz", ".bz2", ".zst")):
            tail = b""
            while block := file.read(1 << 20):
                tail = (tail + block)[-_TAIL_BYTES:]
        else:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            tail = file.read()
    return tail.decode(encoding, errors="replace")


def _is_open(end: str, value_tail: str, marks: Marks) -> bool:
    """Whether the value is the last of its file and has no closing quote."""
    quote, escape = marks.quote, marks.escape
    end = end.rstrip()
    if not _bare(end, quote, escape).endswith(_bare(value_tail, quote, escape)[-60:]):
        return False  # another row follows
    if escape != quote:
        return not end.endswith(quote) or end.endswith(escape + quote)
    return (len(end) - len(end.rstrip(quote))) % 2 == 0


def _bare(text: str, quote: str, escape: str) -> str:
    """The text without quotes and escapes, with one kind of line ends."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace(quote, "").replace(escape, "").rstrip()
