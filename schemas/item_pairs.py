"""Item-item pairs mined from behaviour."""

from schemas.table import Table, col

TABLE = Table(
    name="item_pairs",
    comment="Directed pairs trigger -> target; symmetric miners write both directions",
    columns=(
        col("trigger", "bigint", "items.item_idx of the trigger"),
        col("target", "bigint", "items.item_idx of the target"),
        col("source", "string", "Pair source: u2i, swing, itemcf; user: pairs that you bring"),
        col("split_id", "string", "Split whose training period was mined"),
        col("window_end", "timestamp", "Only events before this instant were seen"),
        col("miner_version", "string", "Hash of the miner's parameters and code version"),
        col("score", "double", "u2i: mean cosine; swing, itemcf: the score of the formula"),
        col("support", "bigint", "Distinct users behind the pair"),
        col("weight", "double", "Sum of event weights behind the pair"),
        col("last_ts", "timestamp", "Latest event behind the pair; null: unknown", nullable=True),
    ),
    key=("trigger", "target", "source", "split_id", "window_end", "miner_version"),
    # A run's files hold all triggers and targets; their statistics would only cost time.
    properties={
        "delta.dataSkippingStatsColumns": "source,split_id,window_end,miner_version,last_ts"
    },
    constraints={
        "no_self_pair": "trigger <> target",
        "source_known": "length(source) > 0",
        "support_positive": "support >= 1",
    },
)
