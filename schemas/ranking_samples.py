"""Samples of the ranker."""

from collections.abc import Sequence

from schemas.columns import (
    IS_REPEAT,
    ITEM_IDX,
    ITEM_TRAIN_EVENTS,
    PART,
    SAMPLE_ID,
    TS,
    USER_IDX,
    WEIGHT,
)
from schemas.table import Table, col


def table(labels: Sequence[str] = ("positive",)) -> Table:
    """Schema of the samples, with one column ``label_<name>`` for each of ``labels``."""
    label_columns = tuple(col(f"label_{name}", "float", f"Label {name}, 0 or 1") for name in labels)
    return Table(
        name="ranking_samples",
        comment="One row per impression: observed, or a sampled negative",
        columns=(
            col(SAMPLE_ID, "bigint", "Hash of the impression's key; unique"),
            col(USER_IDX, "bigint", "users.user_idx"),
            col(ITEM_IDX, "bigint", "items.item_idx of the target"),
            col(TS, "bigint", "Epoch seconds of the impression"),
            *label_columns,
            col(WEIGHT, "float", "Weight in the loss, above 0"),
            col(PART, "string", "train, valid or test"),
            col("negative_kind", "string", "none (a positive), observed or sampled"),
            col(IS_REPEAT, "boolean", "Whether the user had the target before"),
            col(ITEM_TRAIN_EVENTS, "bigint", "Events of the target in mine and train"),
            col("user_count", "float", "Events of the user before ts"),
            col("user_rate", "float", "Smoothed share of positives among them, as of ts"),
            col(
                "item_count",
                "float",
                "Events of the target before ts (without times: out of fold)",
            ),
            col("item_rate", "float", "Smoothed share of positives (or of all) among them"),
            col("history_length", "int", "Entries of the history without padding"),
            col(
                "history_item_idx",
                "array<bigint>",
                "Positives strictly before ts, oldest first; fixed length, left-padded with -1",
            ),
            col("history_ts", "array<bigint>", "Their epoch seconds, padded with 0"),
        ),
        key=(SAMPLE_ID,),
        # Ranks read the files of one part.
        partition_by=(PART,),
        constraints={
            "part_known": "part IN ('mine', 'train', 'valid', 'test')",
            "negative_kind_known": "negative_kind IN ('none', 'observed', 'sampled')",
        },
    )


TABLE = table()
