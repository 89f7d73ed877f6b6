"""The validated log."""

from schemas.columns import EVENT, ITEM_ID, ITEM_IDX, TS, USER_ID, USER_IDX, VALUE, WEIGHT
from schemas.table import Table, col

TABLE = Table(
    name="interactions",
    comment="One row per event of a user with an item; lines with the same key are merged",
    columns=(
        col(USER_ID, "string", "users.user_id"),
        col(ITEM_ID, "string", "items.item_id"),
        col(EVENT, "string", "Name of the event, such as purchase or click"),
        col(
            TS,
            "timestamp",
            "UTC, microseconds; logs with positions: seconds after 1970",
        ),
        col("seq", "bigint", "Rank in the user's time order, 0-based, ties broken by a hash"),
        col(USER_IDX, "bigint", "users.user_idx"),
        col(ITEM_IDX, "bigint", "items.item_idx"),
        col("positive", "boolean", "Whether the event counts as positive for mining and history"),
        col("labels", "map<string,float>", "Each configured label of the event, 0 or 1"),
        col(VALUE, "double", "Number such as a rating or a quantity; null: none", nullable=True),
        col(WEIGHT, "double", "Weight of the event in mining, above 0"),
        col("lines", "bigint", "Source lines merged into this row"),
        col("source_split", "string", "Part that the log names; null: none", nullable=True),
        col("dt", "date", "Day of ts (UTC)"),
    ),
    key=(USER_ID, ITEM_ID, EVENT, TS),
    constraints={"weight_positive": "weight > 0", "lines_positive": "lines >= 1"},
    partition_by=(),
)
