"""The users."""

from schemas.columns import FIRST_SEEN, REMOVED_AT, SOURCE_TYPE, USER_ID, USER_IDX
from schemas.table import Table, col

TABLE = Table(
    name="users",
    comment="One row per user that the log has ever named",
    columns=(
        col(USER_ID, "string", "The source's own id, as text"),
        col(USER_IDX, "bigint", "Dense, 0-based, append-only, never reused"),
        col(FIRST_SEEN, "timestamp", "First event (UTC)"),
        col(REMOVED_AT, "timestamp", "When the user was erased; null: present", nullable=True),
        col(SOURCE_TYPE, "string", "Type of the id in the source"),
    ),
    key=(USER_ID,),
    constraints={"user_idx_not_negative": "user_idx >= 0"},
)
