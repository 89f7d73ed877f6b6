"""Section [log]: the interaction log."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from qarm.config.section import Section

FileFormat = Literal["auto", "parquet", "csv", "jsonl", "delta"]
TimeFormat = Literal["timestamp", "iso", "epoch_s", "epoch_ms", "epoch_us", "order"]


class LogSource(Section):
    """The interaction log: its files and the meaning of their columns."""

    path: list[str] = []
    """URIs of files, folders or globs, relative to the configuration file. Leave empty with
    split.kind = "files", which names the files under split.files."""
    format: FileFormat = "auto"
    """Format of the files; auto: from the file name's ending."""
    csv_options: dict[str, str] = {}
    """Options of Spark's CSV reader, such as sep or encoding. By default CSV is read as RFC 4180
    defines it: a quote inside quotes is doubled, and quoted values may contain newlines. Set
    escape = "\\\\" where quotes are escaped by a backslash, and multiLine = "false" to read files
    without such newlines in parallel. Rows that do not fit the header or their column's type go to
    quarantine as malformed_row."""
    user: str = "user_id"
    """Column of the user's id."""
    item: str = "item_id"
    """Column of the item's id."""
    null_words: list[str] = ["nan", "none", "null", "\\n", "n/a", "<na>", "undefined"]
    """Texts, of any case, that stand for a missing id in log and catalogue; rows with one go to
    quarantine as null_user or null_item. Databases and pandas write them, and all anonymous events
    would become those of one user. Set [] if such ids are real."""
    time: str | None = "ts"
    """Column of the event's time, or of its position where time_format is order."""
    time_format: TimeFormat = "timestamp"
    """How to read the time. timestamp: a timestamp column; iso: ISO 8601 text; epoch_s, epoch_ms,
    epoch_us: a number in seconds, milliseconds or microseconds since 1970 (UTC); order: a position,
    for logs without times."""
    event: str | None = None
    """Column of the event's name, such as click or purchase; none: all rows are event_name."""
    event_name: str = "interaction"
    """Name of all events where there is no event column."""
    value: str | None = None
    """Column of a number such as a rating or a quantity; none: events have no value."""
    merge_values: Literal["sum", "max", "mean"] = "sum"
    """How values are combined when lines of the same user, item, event and time are merged."""
    rows: str | None = None
    """SQL condition on the log's own columns, such as StockCode RLIKE '^[0-9]{5}'. Other rows go to
    quarantine as not_selected. None: all rows are selected."""
    returns: str | None = None
    """SQL condition on the log's own columns that marks returns and cancellations. They go to
    quarantine as return. None: there are none."""
    labels: dict[str, str] = {"positive": "true"}
    """Label -> SQL condition on the log's own columns. The ranker has one head per label."""
    positive: str = "positive"
    """The label whose events are used for mining, alignment and the ranker's history."""
    weight: str = "1.0"
    """SQL expression on the log's own columns: the event's weight in mining, from 1e-9 to 1e12.
    Rows with another weight go to quarantine as bad_value."""
    split: str | None = None
    """Column with the part of each event, for split.kind = "column"."""
    as_of: str | None = None
    """ISO time (UTC). Events at or after it go to quarantine as future_time. None: the run's
    --as-of, or no limit without it."""

    @model_validator(mode="after")
    def _positive_is_a_label(self) -> LogSource:
        if self.positive not in self.labels:
            raise ValueError(
                f"positive names label {self.positive!r}, which is not among labels "
                f"{sorted(self.labels)}"
            )
        if any(not name.isidentifier() for name in self.labels):
            raise ValueError(f"label names must be identifiers, got {sorted(self.labels)}")
        return self
