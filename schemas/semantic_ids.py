"""Semantic IDs of the whole catalogue."""

from schemas.table import CHANGE_FEED, Table, col

TABLE = Table(
    name="semantic_ids",
    comment="One row an item and codebook",
    columns=(
        col("item_id", "string", "items.item_id"),
        col("item_idx", "bigint", "items.item_idx"),
        col("codebook_id", "string", "codebooks.codebook_id"),
        col("encoder_version", "string", "item_embeddings.encoder_version"),
        col("content_hash", "string", "item_embeddings.content_hash that was coded"),
        col("assigned_at", "timestamp", "The run's --as-of"),
        col("residual_error", "float", "Squared length of what is left after the last level"),
        col("rq", "array<int>", "Residual k-means code, 0-based, one number a level"),
        col(
            "rq_resolved",
            "array<int>",
            "rq after the collision resolver; null: not asked for",
            nullable=True,
        ),
        col("vq", "array<int>", "Ids of the K nearest anchors, nearest first"),
    ),
    key=("item_id", "codebook_id"),
    # Statistics of what rows are looked up by; those of the other columns would only cost time.
    properties={**CHANGE_FEED, "delta.dataSkippingStatsColumns": "item_id,item_idx"},
)
