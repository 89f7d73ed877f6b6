"""Aligned item vectors."""

from schemas.columns import CONTENT_HASH, ENCODER_VERSION, ITEM_ID, ITEM_IDX, VECTOR
from schemas.table import CHANGE_FEED, Table, col

TABLE = Table(
    name="item_embeddings",
    comment="One row per item of the catalogue and encoder",
    columns=(
        col(ITEM_ID, "string", "items.item_id"),
        col(ITEM_IDX, "bigint", "items.item_idx"),
        col(ENCODER_VERSION, "string", "Hash of the encoder artifact, or the user's name for it"),
        col(CONTENT_HASH, "string", "items.content_hash that was encoded"),
        col("modalities", "array<string>", "Modalities of the item; empty: it has no content"),
        col(VECTOR, "array<float>", "Aligned vector of unit length"),
    ),
    key=(ITEM_ID, ENCODER_VERSION),
    properties=CHANGE_FEED,
)
