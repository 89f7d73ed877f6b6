"""Which part of the evaluation protocol each event belongs to."""

from schemas.table import Table, col

TABLE = Table(
    name="event_splits",
    comment="One row an event and split",
    columns=(
        col("split_id", "string", "Kind and hash of the split's parameters"),
        col("user_id", "string", "Key of interactions"),
        col("item_id", "string", "Key of interactions"),
        col("event", "string", "Key of interactions"),
        col("ts", "timestamp", "Key of interactions"),
        col("user_idx", "bigint", "users.user_idx"),
        col("item_idx", "bigint", "items.item_idx"),
        col("part", "string", "mine, train, valid or test; mine is empty unless it is configured"),
    ),
    key=("split_id", "user_id", "item_id", "event", "ts"),
    constraints={"part_known": "part IN ('mine', 'train', 'valid', 'test')"},
)
