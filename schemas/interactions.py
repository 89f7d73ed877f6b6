"""The log, validated."""

from schemas.columns import EVENT, ITEM_ID, ITEM_IDX, TS, USER_ID, USER_IDX, VALUE, WEIGHT
from schemas.table import Table, col

TABLE = Table(
    name="interactions",
    comment="One row an event of a user with an item; lines of one key are merged",
    columns=(
        col(USER_ID, "string", "users.user_id"),
        col(ITEM_ID, "string", "items.item_id"),
        col(EVENT, "string", "Name of the event, such as purchase or click"),
        col(TS, "timestamp", "UTC, microseconds; logs with order only: epoch + seq seconds"),
        col("seq", "bigint", "Order within the user, 0-based, ties broken by a hash"),
        col(USER_IDX, "bigint", "users.user_idx"),
        col(ITEM_IDX, "bigint", "items.item_idx"),
        col("positive", "boolean", "Whether the event counts as positive for mining and history"),
        col("labels", "map<string,float>", "Each configured label of the event, 0 or 1"),
        col(VALUE, "double", "Rating, quantity or the like; null: none", nullable=True),
        col(WEIGHT, "double", "Strength of the event for mining, above 0"),
        col("lines", "bigint", "Source lines merged into this row"),
        col("source_split", "string", "Part the log itself names; null: none", nullable=True),
        col("dt", "date", "Day of ts (UTC)"),
    ),
    key=(USER_ID, ITEM_ID, EVENT, TS),
    constraints={"weight_positive": "weight > 0", "lines_positive": "lines >= 1"},
    partition_by=(),
)
