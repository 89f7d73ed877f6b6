"""Source rows that could not be used, each with its reason."""

from schemas.columns import RUN_ID, SOURCE
from schemas.table import Table, col

TABLE = Table(
    name="quarantine",
    comment="Source rows that could not be used, as JSON, with the reason",
    columns=(
        col("table", "string", "Table of which the row would be: interactions or items"),
        col("reason", "string", "Short name of the reason, such as null_user"),
        col("detail", "string", "Value that was seen; null: none", nullable=True),
        col("raw", "string", "The source row as JSON"),
        col(SOURCE, "string", "File that the row came from"),
        col(RUN_ID, "string", "Run that rejected it"),
    ),
)
