"""Quotes in CSV that are opened and never closed: they swallow the rows that follow.

Spark's reader takes them without a word. Two things happen:

* A later row has a quoted value. Its opening quote cannot close ours, and the reader falls back to
  the raw text up to the next separator: a value that begins with a quote, and has a line's end and
  a separator before its second one. ``swallows`` marks it, and the row goes to quarantine.
* No later quote: the value runs to the end of the file. In a column of numbers or times it fits no
  type, elsewhere than in the last column the row lacks columns, and in both cases is malformed. In
  a last column of text ``check_closed`` finds it and stops; a file cut off inside a value looks
  like that too.
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
    """How a CSV file quotes; ``spans_lines``: whether a quoted value may hold line ends at all."""

    sep: str
    quote: str
    escape: str
    encoding: str
    spans_lines: bool

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Marks:
        """From options of Spark's reader, all of them given; its names mind no case."""
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
    """Whether a text value holds the rows after a quote that was not closed; false for null.

    A value that quotes several lines at its very beginning, a separator in a line after the first,
    looks the same and is marked too.

    Args:
        value: as read.
        marks: of the file.
    """
    from pyspark.sql import functions as F

    quote, sep = re.escape(marks.quote), re.escape(marks.sep)
    found = value.rlike(f"^{quote}[^{quote}]*\\n[^{quote}]*{sep}[^{quote}]*{quote}")
    return F.coalesce(value.startswith(marks.quote) & found, F.lit(False))


def check_closed(rows: DataFrame, last: Column, marks: Marks, field: str) -> None:
    """Refuse files whose last value of the last column is quoted and runs to the file's end.

    A pass over the files; one short text a file with line ends in that column comes to the driver,
    and of those files the end is read once more (all of a compressed file).

    Args:
        rows: of the files, as the CSV reader gives them.
        last: the last column, text.
        marks: of the files.
        field: setting that names the files, for the message.

    Raises:
        InputError: names the file, and what the open value looks like.
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
                f"of the file, and begins with {row['start']!r}. Was the file cut off? Else mend "
                f"that quote, or set quote or escape in {section}.csv_options"
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
    """Whether the value is the last of its file, and has no closing quote."""
    quote, escape = marks.quote, marks.escape
    end = end.rstrip()
    if not _bare(end, quote, escape).endswith(_bare(value_tail, quote, escape)[-60:]):
        return False  # another row follows
    if escape != quote:
        return not end.endswith(quote) or end.endswith(escape + quote)
    return (len(end) - len(end.rstrip(quote))) % 2 == 0


def _bare(text: str, quote: str, escape: str) -> str:
    """Without quotes and what escapes them, with one kind of line ends."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace(quote, "").replace(escape, "").rstrip()
