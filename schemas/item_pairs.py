"""Item-item pairs mined from behaviour."""

from schemas.columns import SCORE, SOURCE, SPLIT_ID, TARGET, TRIGGER, WEIGHT
from schemas.table import Table, col

TABLE = Table(
    name="item_pairs",
    comment="Directed pairs trigger -> target; symmetric miners write both directions",
    columns=(
        col(TRIGGER, "bigint", "items.item_idx of the trigger"),
        col(TARGET, "bigint", "items.item_idx of the target"),
        col(SOURCE, "string", "u2i, swing, itemcf, or user (pairs that you bring)"),
        col(SPLIT_ID, "string", "Split whose mining parts were mined"),
        col("window_end", "timestamp", "Only events before this time were mined"),
        col("miner_version", "string", "Hash of the miner's parameters and code version"),
        col(SCORE, "double", "u2i: mean cosine; swing, itemcf: the score of the formula"),
        col("support", "bigint", "Distinct users behind the pair"),
        col(WEIGHT, "double", "Sum of event weights behind the pair"),
        col("last_ts", "timestamp", "Latest event behind the pair; null: unknown", nullable=True),
    ),
    key=(TRIGGER, TARGET, SOURCE, SPLIT_ID, "window_end", "miner_version"),
    # Each file has all triggers and targets, so that their statistics would not skip any file.
    properties={
        "delta.dataSkippingStatsColumns": "source,split_id,window_end,miner_version,last_ts"
    },
    constraints={
        "no_self_pair": "trigger <> target",
        "source_known": "length(source) > 0",
        "support_positive": "support >= 1",
    },
)
