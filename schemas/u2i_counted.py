"""Which events of each user and day the User2Item triggers were found from."""

from schemas.table import Table, col

TABLE = Table(
    name="u2i_counted",
    comment="One row a user and day; written after its triggers, so that a crash finds them anew",
    columns=(
        col("user_idx", "bigint", "users.user_idx"),
        col("day", "date", "Day (UTC)"),
        col("events", "bigint", "Mined events of the user on that day"),
        col("fingerprint", "string", "Sum of the hashes of those events"),
        col("counted_with", "string", "Hash of the settings, the code and the ID vectors"),
    ),
    key=("user_idx", "day"),
)
