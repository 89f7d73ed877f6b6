"""Event weights of each item and day, for the normalisation of ItemCF counts."""

from schemas.table import Table, col

TABLE = Table(
    name="itemcf_item_days",
    comment="Sum of an item's event weights by day; a partial result that adds up",
    columns=(
        col("day", "date", "Day (UTC) of the events"),
        col("item_idx", "bigint", "items.item_idx"),
        col("weight", "double", "Sum of the events' weights, not decayed"),
    ),
    key=("day", "item_idx"),
    partition_by=("day",),
)
