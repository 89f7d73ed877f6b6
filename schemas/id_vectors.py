"""Behaviour vectors of items (ID embeddings), learnt on the mining period only."""

from schemas.table import Table, col

TABLE = Table(
    name="id_vectors",
    comment="One row an item of the mining period; similarity space of the User2Item trigger",
    columns=(
        col("item_idx", "bigint", "items.item_idx"),
        col("model", "string", "als, or the name of the user's own model"),
        col("vector", "array<float>", "ID embedding, not normalised"),
    ),
    key=("item_idx",),
)
