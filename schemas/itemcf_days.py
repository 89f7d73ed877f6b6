"""Partial ItemCF counts of each day."""

from schemas.table import Table, col

TABLE = Table(
    name="itemcf_days",
    comment="Co-occurrence counts by the day of the later event; a partial result that adds up",
    columns=(
        col("day", "date", "Day (UTC) of the later event"),
        col("trigger", "bigint", "items.item_idx, the smaller of the two"),
        col("target", "bigint", "items.item_idx, the larger of the two"),
        col("units", "bigint", "Weighted count, in units of 2^-32, not decayed"),
        col("events", "bigint", "Co-occurrences behind it"),
        col("last_ts", "timestamp", "Latest event of a co-occurrence"),
    ),
    key=("day", "trigger", "target"),
    constraints={"ordered": "trigger < target", "events_positive": "events >= 1"},
    partition_by=("day",),
)
