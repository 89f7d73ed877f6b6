"""Tables that incremental miners keep from run to run; not part of the public schema."""

from __future__ import annotations

from schemas.table import Table, col

LEDGER = Table(
    name="scratch_ledger",
    comment="One row per key of an incremental miner: what its rows were made from",
    columns=(
        col("miner", "string", "Name of the pair source"),
        col("key", "string", "Values of the miner's key columns, joined by /"),
        col(
            "fingerprint",
            "bigint",
            "Hash of all that the key's rows depend on; null: rows are being written",
            nullable=True,
        ),
    ),
    key=("miner", "key"),
    partition_by=("miner",),
)

U2I = Table(
    name="scratch_u2i",
    comment="User2Item pairs per user and day; partial results that add up",
    columns=(
        col("user_idx", "bigint", "users.user_idx"),
        col("day", "date", "Day (UTC) of the target events"),
        col("trigger", "bigint", "items.item_idx of the trigger"),
        col("target", "bigint", "items.item_idx of the target"),
        col("similarity", "bigint", "Sum of cosines, in units of 2^-32"),
        col("events", "bigint", "Number of target events"),
        col("weight", "decimal(28,12)", "Sum of their weights"),
        col("last_ts", "timestamp", "Time of the latest of them"),
    ),
    key=("user_idx", "day", "trigger", "target"),
    constraints={"no_self_pair": "trigger <> target", "events_positive": "events >= 1"},
)

SWING = Table(
    name="scratch_swing",
    comment="Swing pairs before filters",
    columns=(
        col("trigger", "bigint", "items.item_idx of the trigger"),
        col("target", "bigint", "items.item_idx of the target"),
        col("score", "double", "As in item_pairs"),
        col("support", "bigint", "Common users"),
        col("weight", "double", "Sum of the weights of their events with either item"),
        col("last_ts", "timestamp", "Time of the latest such event"),
    ),
    key=("trigger", "target"),
    constraints={"no_self_pair": "trigger <> target"},
)

ITEMCF_PAIRS = Table(
    name="scratch_itemcf_pairs",
    comment="Co-occurrence counts by the day of the later event; partial results that add up",
    columns=(
        col("day", "date", "Day (UTC) of the later event"),
        col("trigger", "bigint", "items.item_idx, the smaller of the two"),
        col("target", "bigint", "items.item_idx, the larger of the two"),
        col("units", "bigint", "Weighted count, in units of 2^-32"),
        col("events", "bigint", "Number of co-occurrences"),
        col("last_ts", "timestamp", "Time of the latest event of a co-occurrence"),
    ),
    key=("day", "trigger", "target"),
    constraints={"ordered": "trigger < target", "events_positive": "events >= 1"},
    partition_by=("day",),
)

ITEMCF_ITEMS = Table(
    name="scratch_itemcf_items",
    comment="Sum of an item's event weights per day; partial results that add up",
    columns=(
        col("day", "date", "Day (UTC) of the events"),
        col("item_idx", "bigint", "items.item_idx"),
        col("weight", "double", "Sum of the events' weights"),
    ),
    key=("day", "item_idx"),
    partition_by=("day",),
)

TABLES = {table.name: table for table in (LEDGER, U2I, SWING, ITEMCF_PAIRS, ITEMCF_ITEMS)}
