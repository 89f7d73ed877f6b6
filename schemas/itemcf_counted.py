"""Which days the partial ItemCF counts hold, and from which events they were made."""

from schemas.table import Table, col

TABLE = Table(
    name="itemcf_counted",
    comment="One row a counted day; written after its counts, so that a crash counts it anew",
    columns=(
        col("day", "date", "Day (UTC)"),
        col("events", "bigint", "Mined events of the day, before caps"),
        col("fingerprint", "string", "Sum of the hashes of those events"),
        col("counted_with", "string", "Hash of the settings and code that counted the day"),
    ),
    key=("day",),
)
