"""Frozen backbone features: a cache, so that no text or image is encoded twice."""

from schemas.table import Table, col

TABLE = Table(
    name="item_features",
    comment="One row an item and modality; missing modalities have no row",
    columns=(
        col("item_idx", "bigint", "items.item_idx"),
        col("modality", "string", "text, image or audio"),
        col("backbone", "string", "Name and version of the frozen model"),
        col("modality_hash", "string", "SHA-256 of the content that was encoded"),
        col("vector", "array<float>", "Feature of the backbone"),
    ),
    key=("item_idx", "modality", "backbone"),
)
