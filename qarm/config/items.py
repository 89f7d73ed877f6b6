"""Section [items]: the catalogue."""

from __future__ import annotations

from typing import Literal

from qarm.config.log import FileFormat
from qarm.config.section import Section


class ItemSource(Section):
    """The catalogue: a file of its own, or made from the log's lines."""

    path: list[str] = []
    """URIs of files or folders; empty: the catalogue is made from the log (from_log)."""
    format: FileFormat = "auto"
    """auto: by the file's ending."""
    csv_options: dict[str, str] = {}
    """Options of Spark's CSV reader, with the defaults of log.csv_options. Rows that do not fit the
    header are set aside with reason malformed_row."""
    from_log: bool = False
    """Make the catalogue from the log's own columns: the most frequent value of each item among
    lines of the training period, else among all lines."""
    id: str = "item_id"
    """Column of the item's id."""
    title: str | None = None
    """Column of the short name."""
    text: list[str] = []
    """Columns joined, in this order, into the text for the encoder; nulls are left out."""
    attributes: dict[str, str] = {}
    """Attribute name -> column; text is split at attribute_separator, arrays are taken as is."""
    attribute_separator: dict[str, str] = {}
    """Attribute name -> separator (a regular expression); none: the whole value is one."""
    numeric_attributes: dict[str, list[float]] = {}
    """Attribute name -> ascending bin edges; the value's bin becomes its attribute value."""
    image: str | None = None
    """Column of the image: bytes, or a path or URI (relative to the file)."""
    audio: str | None = None
    """Column of an audio vector (array of numbers)."""
    unknown: Literal["quarantine", "keep"] = "quarantine"
    """What becomes of log rows whose item is not in the catalogue; keep: the item is added
    without content."""
