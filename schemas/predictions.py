"""Scores of the ranker on held-out samples."""

from schemas.columns import (
    IS_REPEAT,
    ITEM_IDX,
    ITEM_TRAIN_EVENTS,
    PART,
    SAMPLE_ID,
    SCORE,
    SEED,
    USER_IDX,
    VARIANT,
    WEIGHT,
)
from schemas.table import Table, col

TABLE = Table(
    name="predictions",
    comment="One row per held-out sample, variant, seed and head",
    columns=(
        col(SAMPLE_ID, "bigint", "ranking_samples.sample_id"),
        col(USER_IDX, "bigint", "users.user_idx"),
        col(ITEM_IDX, "bigint", "items.item_idx"),
        col(PART, "string", "valid or test"),
        col(VARIANT, "string", "floor, base, vector, vq, rq or vq_rq"),
        col(SEED, "int", "Seed of the training"),
        col("head", "string", "Name of the label"),
        col("label", "float", "0 or 1"),
        col(SCORE, "float", "Predicted probability"),
        col(WEIGHT, "float", "ranking_samples.weight"),
        col(IS_REPEAT, "boolean", "ranking_samples.is_repeat"),
        col(ITEM_TRAIN_EVENTS, "bigint", "ranking_samples.item_train_events"),
    ),
    key=(SAMPLE_ID, VARIANT, SEED, "head"),
)
