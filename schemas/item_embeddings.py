"""Aligned item vectors."""

from schemas.table import CHANGE_FEED, Table, col

TABLE = Table(
    name="item_embeddings",
    comment="One row an item of the catalogue and encoder",
    columns=(
        col("item_id", "string", "items.item_id"),
        col("item_idx", "bigint", "items.item_idx"),
        col("encoder_version", "string", "Hash of the encoder artifact, or the user's name for it"),
        col("content_hash", "string", "items.content_hash that was encoded"),
        col("modalities", "array<string>", "Modalities present; empty: no content at all"),
        col("vector", "array<float>", "Aligned vector of unit length"),
    ),
    key=("item_id", "encoder_version"),
    properties=CHANGE_FEED,
)
