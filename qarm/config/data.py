"""Sections for the data: where logs and catalogue lie and what their columns mean."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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


class Split(Section):
    """The evaluation split. mine_end <= train_end <= valid_end."""

    kind: Literal["global", "per_user", "leave_last_n", "column", "files"] = "global"
    """global: cuts at row quantiles of time (not of positions: log.time_format = "order");
    per_user: by the event's place (k + .5)/n in the user's time order; leave_last_n: the last
    test_events and the valid_events before them; column: log.split names the part; files:
    split.files names files of each part."""
    mine: float = Field(0.0, ge=0, lt=1)
    """Share of events, earliest first, for mining only; 0: mining sees the train part."""
    train: float = Field(0.8, gt=0, le=1)
    """Share of events for training."""
    valid: float = Field(0.1, ge=0, lt=1)
    """Share of events for validation; the rest is test."""
    valid_events: int = Field(1, ge=0)
    """leave_last_n: events a user for validation."""
    test_events: int = Field(1, ge=1)
    """leave_last_n: last events a user for test."""
    valid_share: float = Field(0.1, ge=0, lt=1)
    """column, files: where the log names no valid part, this share of the train events becomes it:
    the latest in time, or each user's last where the log has positions only. The ranker chooses
    its epoch there. 0: none, and no ranker."""
    column_values: dict[str, str] = {}
    """column: value in the log -> part (mine, train, valid, test)."""
    files: dict[str, list[str]] = {}
    """files: part -> URIs; all files have the same columns."""

    @model_validator(mode="after")
    def _shares(self) -> Split:
        total = self.mine + self.train + self.valid
        if self.kind in ("global", "per_user") and total >= 1:
            raise ValueError(f"mine + train + valid must leave a share for test, got {total:g}")
        known = {"mine", "train", "valid", "test"}
        for parts, where in ((self.column_values.values(), "column_values"), (self.files, "files")):
            if unknown := set(parts) - known:
                raise ValueError(f"{where} names parts {sorted(unknown)}; known: {sorted(known)}")
        if self.kind == "files" and not self.files:
            raise ValueError('kind = "files" needs split.files: part -> URIs')
        return self


class Gates(Section):
    """What stops a run before it publishes (exit code 4)."""

    max_quarantine_share: float = Field(0.5, ge=0, le=1)
    """Largest share of log rows in quarantine, of the rows that log.rows and log.returns leave in:
    what these leave out (not_selected, return) counts neither as lost nor as a row."""
    min_interactions: int = Field(1, ge=0)
    """Fewest rows of interactions."""
    min_items: int = Field(1, ge=0)
    """Fewest items."""
    min_pairs: int = Field(1, ge=0)
    """Fewest item pairs."""
    min_metric: dict[str, float] = {}
    """Metric -> smallest value allowed, such as "auc/base/test" = 0.7 (metric/variant/part)."""
