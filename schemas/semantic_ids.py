"""Semantic IDs of the whole catalogue."""

from schemas.columns import CODEBOOK_ID, CONTENT_HASH, ENCODER_VERSION, ITEM_ID, ITEM_IDX
from schemas.table import CHANGE_FEED, Table, col

TABLE = Table(
    name="semantic_ids",
    comment="One row per item and codebook",
    columns=(
        col(ITEM_ID, "string", "items.item_id"),
        col(ITEM_IDX, "bigint", "items.item_idx"),
        col(CODEBOOK_ID, "string", "codebooks.codebook_id"),
        col(ENCODER_VERSION, "string", "item_embeddings.encoder_version"),
        col(CONTENT_HASH, "string", "item_embeddings.content_hash that was coded"),
        col("assigned_at", "timestamp", "The run's --as-of"),
        col("residual_error", "float", "Squared length of the residual after the last level"),
        col("rq", "array<int>", "Residual k-means code, 0-based, one number per level"),
        col(
            "rq_resolved",
            "array<int>",
            "rq after the collision resolver; null: resolver is off",
            nullable=True,
        ),
        col("vq", "array<int>", "Ids of the K nearest anchors, nearest first"),
    ),
    key=(ITEM_ID, CODEBOOK_ID),
    # Statistics of the columns by which rows are looked up; others would only cost time.
    properties={**CHANGE_FEED, "delta.dataSkippingStatsColumns": "item_id,item_idx"},
)
