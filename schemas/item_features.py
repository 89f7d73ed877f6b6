"""Features of frozen backbones: a cache, so that no text or image is encoded twice."""

from schemas.columns import ITEM_IDX, VECTOR
from schemas.table import Table, col

TABLE = Table(
    name="item_features",
    comment="One row per item and modality; missing modalities have no row",
    columns=(
        col(ITEM_IDX, "bigint", "items.item_idx"),
        col("modality", "string", "text, image or audio"),
        col("backbone", "string", "Name and version of the frozen model"),
        col("modality_hash", "string", "SHA-256 of the content that was encoded"),
        col(VECTOR, "array<float>", "Feature of the backbone"),
    ),
    key=(ITEM_IDX, "modality", "backbone"),
)
