"""Behaviour vectors of items (ID embeddings), trained on the mining period only."""

from schemas.columns import ITEM_IDX, VECTOR
from schemas.table import Table, col

TABLE = Table(
    name="id_vectors",
    comment="One row per item of the mining period; the similarity of User2Item triggers",
    columns=(
        col(ITEM_IDX, "bigint", "items.item_idx"),
        col("model", "string", "als, or the name of the user's own model"),
        col(VECTOR, "array<float>", "ID embedding, not normalised"),
    ),
    key=(ITEM_IDX,),
)
