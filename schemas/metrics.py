"""All metrics, in long form."""

from schemas.columns import PART, RUN_ID, SEED, VALUE, VARIANT
from schemas.table import Table, col

TABLE = Table(
    name="metrics",
    comment="One row per metric value",
    columns=(
        col(RUN_ID, "string", "Run that computed it"),
        col("stage", "string", "Stage that computed it"),
        col("metric", "string", "Name, such as auc or recall@50"),
        col("slice", "string", "all, or the slice's name"),
        col(VARIANT, "string", "Model or vectors that it describes; empty: none"),
        col(SEED, "int", "Seed; null: none", nullable=True),
        col(PART, "string", "Part it was computed on"),
        col(VALUE, "double", "Value of the metric"),
        col("low", "double", "Lower end of the 95 % interval; null: none", nullable=True),
        col("high", "double", "Upper end; null: none", nullable=True),
        col("n", "bigint", "Rows that it was computed from"),
    ),
)
