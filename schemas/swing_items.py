"""Which users' lists the Swing pairs of each item were made from."""

from schemas.table import Table, col

TABLE = Table(
    name="swing_items",
    comment="One row an item; written after its pairs, so that a crash scores it anew",
    columns=(
        col("item_idx", "bigint", "items.item_idx of the trigger"),
        col("fingerprint", "bigint", "Hash of the lists of the users that the item keeps"),
        col("scored_with", "string", "Hash of the settings and code that scored it"),
    ),
    key=("item_idx",),
)
