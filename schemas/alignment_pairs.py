"""Training pairs of the alignment: weighted, shuffled, with a held-out part."""

from schemas.columns import PART, SOURCE, TARGET, TRIGGER, WEIGHT
from schemas.table import Table, col

TABLE = Table(
    name="alignment_pairs",
    comment="One row per directed pair and source; rows are shuffled, files have similar sizes",
    columns=(
        col(TRIGGER, "bigint", "items.item_idx of the trigger"),
        col(TARGET, "bigint", "items.item_idx of the target"),
        col(SOURCE, "string", "item_pairs.source"),
        col(WEIGHT, "float", "Weight in the loss: balances the sources; 1 on average"),
        col("trigger_logq", "float", "Log of the share of training rows with this trigger"),
        col("target_logq", "float", "Log of the share of training rows with this target"),
        col(PART, "string", "train or valid; a pair and its reverse are in the same part"),
    ),
    key=(TRIGGER, TARGET, SOURCE),
    constraints={"part_known": "part IN ('train', 'valid')", "weight_positive": "weight > 0"},
    partition_by=(PART,),
)
