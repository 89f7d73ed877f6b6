"""The part of each event in the evaluation split."""

from schemas.columns import EVENT, ITEM_ID, ITEM_IDX, PART, SPLIT_ID, TS, USER_ID, USER_IDX
from schemas.table import Table, col

TABLE = Table(
    name="event_splits",
    comment="One row per event and split",
    columns=(
        col(SPLIT_ID, "string", "Kind and hash of the split's parameters"),
        col(USER_ID, "string", "Key of interactions"),
        col(ITEM_ID, "string", "Key of interactions"),
        col(EVENT, "string", "Key of interactions"),
        col(TS, "timestamp", "Key of interactions"),
        col(USER_IDX, "bigint", "users.user_idx"),
        col(ITEM_IDX, "bigint", "items.item_idx"),
        col(PART, "string", "mine, train, valid or test; mine only if the split has it"),
    ),
    key=(SPLIT_ID, USER_ID, ITEM_ID, EVENT, TS),
    constraints={"part_known": "part IN ('mine', 'train', 'valid', 'test')"},
)
