"""What alignment is trained on: pairs, weighted, shuffled, with a part held out."""

from schemas.table import Table, col

TABLE = Table(
    name="alignment_pairs",
    comment="One row a directed pair and source; rows are shuffled, files are of like size",
    columns=(
        col("trigger", "bigint", "items.item_idx of the trigger"),
        col("target", "bigint", "items.item_idx of the target"),
        col("source", "string", "item_pairs.source"),
        col("weight", "float", "Weight in the loss: balances the sources; 1 on average"),
        col("trigger_logq", "float", "Log of the share of training rows with this trigger"),
        col("target_logq", "float", "Log of the share of training rows with this target"),
        col("part", "string", "train or valid; a pair and its mirror image are in one part"),
    ),
    key=("trigger", "target", "source"),
    constraints={"part_known": "part IN ('train', 'valid')", "weight_positive": "weight > 0"},
    partition_by=("part",),
)
