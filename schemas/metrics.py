"""Every figure, long form."""

from schemas.table import Table, col

TABLE = Table(
    name="metrics",
    comment="One row a figure",
    columns=(
        col("run_id", "string", "Run that computed it"),
        col("stage", "string", "Stage that computed it"),
        col("metric", "string", "Name, such as auc or recall@50"),
        col("slice", "string", "all, or the slice's name"),
        col("variant", "string", "Model or vectors it is about; empty: none"),
        col("seed", "int", "Seed; null: none", nullable=True),
        col("part", "string", "Part it was computed on"),
        col("value", "double", "The figure"),
        col("low", "double", "Lower end of the 95 % interval; null: none", nullable=True),
        col("high", "double", "Upper end; null: none", nullable=True),
        col("n", "bigint", "Rows behind it"),
    ),
)
