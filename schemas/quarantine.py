"""Rows that could not be used, each with its reason."""

from schemas.columns import RUN_ID, SOURCE
from schemas.table import Table, col

TABLE = Table(
    name="quarantine",
    comment="Every source row that is in no table, as JSON, with the reason",
    columns=(
        col("table", "string", "Table that the row was meant for: interactions or items"),
        col("reason", "string", "Short name of the reason, such as null_user"),
        col("detail", "string", "What was seen; null: the reason says all", nullable=True),
        col("raw", "string", "The source row as JSON"),
        col(SOURCE, "string", "File that the row came from"),
        col(RUN_ID, "string", "Run that put it here"),
    ),
)
