"""Scores of the ranker on held-out samples."""

from schemas.table import Table, col

TABLE = Table(
    name="predictions",
    comment="One row a held-out sample, variant, seed and head",
    columns=(
        col("sample_id", "bigint", "ranking_samples.sample_id"),
        col("user_idx", "bigint", "users.user_idx"),
        col("item_idx", "bigint", "items.item_idx"),
        col("part", "string", "valid or test"),
        col("variant", "string", "floor, base, vector, vq, rq or vq_rq"),
        col("seed", "int", "Seed of the training"),
        col("head", "string", "Name of the label"),
        col("label", "float", "0 or 1"),
        col("score", "float", "Predicted probability"),
        col("weight", "float", "ranking_samples.weight"),
        col("is_repeat", "boolean", "ranking_samples.is_repeat"),
        col("item_train_events", "bigint", "ranking_samples.item_train_events"),
    ),
    key=("sample_id", "variant", "seed", "head"),
)
