"""The users."""

from schemas.table import Table, col

TABLE = Table(
    name="users",
    comment="One row a user that the log has ever named",
    columns=(
        col("user_id", "string", "The source's own id, as text"),
        col("user_idx", "bigint", "Dense, 0-based, append-only, never reused"),
        col("first_seen", "timestamp", "First event (UTC)"),
        col("removed_at", "timestamp", "When erased; null: present", nullable=True),
        col("source_type", "string", "Type of the id in the source"),
    ),
    key=("user_id",),
    constraints={"user_idx_not_negative": "user_idx >= 0"},
)
