"""Codebooks: residual centroids, the projection of an FSQ level, VQ anchors. Immutable."""

from schemas.table import Table, col

TABLE = Table(
    name="codebooks",
    comment="One row a code of a level (rq), a bit of an FSQ level (fsq) or an anchor (vq)",
    columns=(
        col("codebook_id", "string", "Hash of vectors and fit parameters"),
        col("kind", "string", "rq, fsq or vq"),
        col("level", "int", "0-based level; 0 for vq; the last for fsq"),
        col(
            "code",
            "int",
            "0-based number within the level; fsq: the bit, and as many as bits: the origin",
        ),
        col("item_idx", "bigint", "vq: the anchor item; null: a centroid", nullable=True),
        col("encoder_version", "string", "Encoder of the vectors it was fitted on"),
        col("fit", "string", "Fit parameters as JSON"),
        col(
            "vector",
            "array<float>",
            "Centroid (of an FSQ level: the mean rest of the code), anchor vector, or for fsq a "
            "column of W; the origin",
        ),
    ),
    key=("codebook_id", "kind", "level", "code"),
    constraints={
        "kind_known": "kind <> ''",
        "code_not_negative": "code >= 0 AND level >= 0",
    },
)
