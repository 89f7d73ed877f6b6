"""Codebooks: residual k-means centroids and VQ anchors. Immutable."""

from schemas.table import Table, col

TABLE = Table(
    name="codebooks",
    comment="One row a code of a level (rq) or an anchor (vq)",
    columns=(
        col("codebook_id", "string", "Hash of vectors and fit parameters"),
        col("kind", "string", "rq or vq"),
        col("level", "int", "0-based level; 0 for vq"),
        col("code", "int", "0-based number within the level"),
        col("item_idx", "bigint", "vq: the anchor item; null: a centroid", nullable=True),
        col("encoder_version", "string", "Encoder of the vectors it was fitted on"),
        col("fit", "string", "Fit parameters as JSON"),
        col("vector", "array<float>", "Centroid or anchor vector"),
    ),
    key=("codebook_id", "kind", "level", "code"),
    constraints={
        "kind_known": "kind IN ('rq', 'vq')",
        "code_not_negative": "code >= 0 AND level >= 0",
    },
)
