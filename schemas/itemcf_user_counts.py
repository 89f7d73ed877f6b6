"""ItemCF counts of distinct users, before decay."""

from schemas.table import Table, col

TABLE = Table(
    name="itemcf_user_counts",
    comment="What users add to co-occurrence counts, each once a pair; a partial result that adds "
    "up. trigger = target: what they add to the weight of the item itself",
    columns=(
        col("trigger", "bigint", "items.item_idx, the smaller of the two"),
        col("target", "bigint", "items.item_idx, the larger of the two"),
        col("day", "date", "Day (UTC) from which the users' terms decay"),
        col("last_ts", "timestamp", "Their latest co-occurrence; of an item itself: midnight"),
        col("units", "bigint", "Sum of their largest terms, in units of 2^-32, not decayed"),
        col("users", "bigint", "Distinct users behind it"),
    ),
    key=("trigger", "target", "day", "last_ts"),
    constraints={"ordered": "trigger <= target", "users_positive": "users >= 1"},
)
