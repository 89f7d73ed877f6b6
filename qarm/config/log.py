"""Section [log]: the interaction log."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from qarm.config.section import Section

FileFormat = Literal["auto", "parquet", "csv", "jsonl", "delta"]
TimeFormat = Literal["timestamp", "iso", "epoch_s", "epoch_ms", "epoch_us", "order"]


class LogSource(Section):
    """The interaction log: files and the meaning of their columns."""

    path: list[str] = []
    """URIs of files or folders, relative to the configuration file. With split.kind = "files",
    leave empty and name the files under split.files."""
    format: FileFormat = "auto"
    """auto: by the file's ending."""
    csv_options: dict[str, str] = {}
    """Options of Spark's CSV reader, such as sep or encoding. CSV is read as RFC 4180 says: a quote
    within quotes is doubled, quoted values may hold newlines; escape = "\\\\" reads a backslash
    before quotes instead, and multiLine = "false" reads a file without such newlines in parallel.
    Rows that do not fit the header or their column's type are set aside with reason
    malformed_row."""
    user: str = "user_id"
    """Column of the user's id."""
    item: str = "item_id"
    """Column of the item's id."""
    time: str | None = "ts"
    """Column of the time, or of the position where time_format is order."""
    time_format: TimeFormat = "timestamp"
    """timestamp: a timestamp column; iso: ISO 8601 text; epoch_*: a number; order: a position."""
    event: str | None = None
    """Column of the event's name; none: all rows are one event."""
    event_name: str = "interaction"
    """Name given to all events when there is no event column."""
    value: str | None = None
    """Column of a number such as rating or quantity; added up when lines are merged under
    merge_values = "sum"."""
    merge_values: Literal["sum", "max", "mean"] = "sum"
    """How the values of merged lines (same user, item, event, time) become one."""
    rows: str | None = None
    """SQL condition on the log's own columns; rows for which it is not true are set aside with
    reason not_selected. Such as: StockCode RLIKE '^[0-9]{5}'."""
    returns: str | None = None
    """SQL condition on the log's own columns that marks a return or cancellation."""
    labels: dict[str, str] = {"positive": "true"}
    """Label -> SQL condition on the log's own columns; each becomes a head of the ranker."""
    positive: str = "positive"
    """The label that counts as positive for mining, history and alignment."""
    weight: str = "1.0"
    """SQL expression of an event's weight in mining, on the log's own columns; above 0."""
    split: str | None = None
    """Column with the part that the log itself names (for split.kind = "column")."""
    as_of: str | None = None
    """Events at or after this instant (ISO, UTC) are quarantined as future; none: the run's
    --as-of, else no limit."""

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
