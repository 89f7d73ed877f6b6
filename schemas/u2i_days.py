"""Triggers of User2Item by user and day of the target."""

from schemas.table import Table, col

TABLE = Table(
    name="u2i_days",
    comment="User2Item pairs of each user and day; a partial result that adds up",
    columns=(
        col("user_idx", "bigint", "users.user_idx"),
        col("day", "date", "Day (UTC) of the target events"),
        col("trigger", "bigint", "items.item_idx of the trigger"),
        col("target", "bigint", "items.item_idx of the target"),
        col("similarity", "bigint", "Sum of cosines, in units of 2^-32"),
        col("events", "bigint", "Target events"),
        col("weight", "decimal(28,12)", "Sum of their weights"),
        col("last_ts", "timestamp", "The latest of them"),
    ),
    key=("user_idx", "day", "trigger", "target"),
    constraints={"no_self_pair": "trigger <> target", "events_positive": "events >= 1"},
)
