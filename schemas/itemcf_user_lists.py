"""The lists that ItemCF counts of distinct users were made from."""

from schemas.table import Table, col

TABLE = Table(
    name="itemcf_user_lists",
    comment="One row a user; written after the counts, so that a crash counts its changes anew",
    columns=(
        col("user_idx", "bigint", "users.user_idx"),
        col("fingerprint", "bigint", "Hash of entries"),
        col("entries", "binary", "Capped list of events: item, place, ts, weight, 24 bytes each"),
        col("counts_version", "bigint", "Version of itemcf_user_counts that the list is part of"),
        col("counted_with", "string", "Hash of the settings and code that counted it"),
    ),
    key=("user_idx",),
)
