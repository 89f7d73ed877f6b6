"""Section [items]: the catalogue."""

from __future__ import annotations

from typing import Literal

from qarm.config.log import FileFormat
from qarm.config.section import Section


class ItemSource(Section):
    """The item catalogue: files of its own, or columns of the log."""

    path: list[str] = []
    """URIs of files, folders or globs, relative to the configuration file; empty with from_log."""
    format: FileFormat = "auto"
    """Format of the files; auto: from the file name's ending."""
    csv_options: dict[str, str] = {}
    """Options of Spark's CSV reader, with the defaults of log.csv_options. Rows that do not fit the
    header go to quarantine as malformed_row."""
    from_log: bool = False
    """Make the catalogue from columns of the log: each item gets its most frequent value in the
    training period, or in all lines if it has none there."""
    id: str = "item_id"
    """Column of the item's id."""
    title: str | None = None
    """Column of the short name for people; none: items have no title."""
    text: list[str] = []
    """Columns that are joined, in this order, into the text for the encoder. Nulls are skipped."""
    attributes: dict[str, str] = {}
    """Attribute name -> column. Text is split at attribute_separator; arrays are used as they
    are."""
    attribute_separator: dict[str, str] = {}
    """Attribute name -> separator (a regular expression). Without one, the text is one value."""
    numeric_attributes: dict[str, list[float]] = {}
    """Attribute name -> ascending bin edges. The bin of the number is the attribute's value."""
    image: str | None = None
    """Column of the image: encoded bytes, a path or URI (relative to the catalogue file), or a
    data: URI. JPEG, PNG, WebP and GIF are read."""
    image_prefixes: list[str] = []
    """URIs of folders that images may lie in, such as s3a://media/; those below the catalogue's own
    folder always may. A catalogue from outside must not name any file that this machine can
    read."""
    audio: str | None = None
    """Column of an audio vector: an array of numbers, of one length for all items."""
    unknown: Literal["quarantine", "keep"] = "quarantine"
    """Log rows whose item is not in the catalogue. quarantine: they go to quarantine as
    unknown_item; keep: the item is added without content. Use keep where the catalogue is
    incomplete."""
