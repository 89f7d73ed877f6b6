"""Swing pairs of all items, before filters: what a run does not have to score again."""

from schemas.table import Table, col

TABLE = Table(
    name="swing_scored",
    comment="Swing pairs before filters; a partial result, kept from run to run",
    columns=(
        col("trigger", "bigint", "items.item_idx of the trigger"),
        col("target", "bigint", "items.item_idx of the target"),
        col("score", "double", "As in item_pairs"),
        col("support", "bigint", "Common users"),
        col("weight", "double", "Of their events with either item"),
        col("last_ts", "timestamp", "Latest such event"),
    ),
    key=("trigger", "target"),
    constraints={"no_self_pair": "trigger <> target"},
)
