"""Codebooks: residual centroids, the projection of an FSQ level, VQ anchors. Immutable."""

from schemas.columns import CODEBOOK_ID, ENCODER_VERSION, ITEM_IDX, VECTOR
from schemas.table import Table, col

TABLE = Table(
    name="codebooks",
    comment="One row per code of a level (rq), bit of an FSQ level (fsq), or anchor (vq)",
    columns=(
        col(CODEBOOK_ID, "string", "Hash of vectors and fit parameters"),
        col("kind", "string", "rq, fsq or vq"),
        col("level", "int", "0-based level; 0 for vq; the last for fsq"),
        col(
            "code",
            "int",
            "0-based number within the level; fsq: the bit, or the number of bits for the origin",
        ),
        col(ITEM_IDX, "bigint", "vq: the anchor item; null: a centroid", nullable=True),
        col(ENCODER_VERSION, "string", "Encoder of the vectors it was fitted on"),
        col("fit", "string", "Fit parameters as JSON"),
        col(
            VECTOR,
            "array<float>",
            "Centroid (of an FSQ level: the mean residual of the code), anchor, or for fsq a "
            "column of W or the origin",
        ),
    ),
    key=(CODEBOOK_ID, "kind", "level", "code"),
    constraints={
        "kind_known": "kind <> ''",
        "code_not_negative": "code >= 0 AND level >= 0",
    },
)
