"""Swing ("exploitation") pairs: items joined by pairs of users who share little else."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qarm.pairs.blocks import Block, Call, Index, count_blocks, index_block, score_in_blocks
from qarm.pairs.mined import PAIR_COLUMNS, Keep, Mined, recompute
from qarm.pairs.topk import exact_sum, top_k

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config.learning import Swing

#: Pairs with a score (two common users), and reasons to drop one.
PAIR_COUNTS = ("scored", "below_min_support", "beyond_top_k")

_FIELDS = (("item_idx", "<i8"), ("ts", "<i8"), ("weight", "<f8"), ("sampled", "?"))


def swing(events: DataFrame, config: Swing, seed: int) -> DataFrame:
    """Swing pairs, both directions: s(i,j) = sum over unordered pairs {u,v} of common users of
    w_u w_v / (alpha2 + |I_u n I_v|), w_u = 1/(|I_u| + alpha1)^beta (arXiv 2010.05525).

    I_u are a user's distinct items, the latest ``max_items_per_user`` (or none of them, where
    over_cap = "drop"), of users with at least ``min_items_per_user``. An item keeps the
    ``max_users_per_item`` users with the smallest hash(user, seed), the same hash for all items:
    the sum runs over users that both items keep, so s(i,j) = s(j,i), reruns agree, and common users
    survive at the rate of the hotter item. Scores of hot items are therefore too small by about the
    square of that rate; nothing is scaled up.

    Args:
        events: user_idx, item_idx, ts, weight.
        config: see qarm.config.learning.Swing.
        seed: of the user sample.

    Returns:
        trigger, target, score, support (common users), weight (of their events with either item),
        last_ts (latest such event). Only pairs with two common users have a score.
    """
    return mine_swing(events, config, seed).pairs


def mine_swing(events: DataFrame, config: Swing, seed: int, keep: Keep = recompute) -> Mined:
    """``swing`` with counts of dropped pairs (``PAIR_COUNTS``) and facts about skew."""
    from pyspark.sql import functions as F

    user_items = keep(
        events.groupBy("user_idx", "item_idx").agg(
            F.unix_micros(F.max("ts")).alias("ts"),
            exact_sum("weight").alias("weight"),
            F.count("*").alias("events"),
        )
    )
    lists = keep(_sample_users(_cap_users(user_items, config), config, seed))
    skew, entries, shipped = _skew(user_items, lists, config)
    blocks = count_blocks(events.sparkSession, entries, shipped)
    block = F.when(F.col("sampled"), F.pmod("item_idx", F.lit(blocks))).otherwise(-1)
    rows = score_in_blocks(
        lists.withColumn("block", block.cast("bigint")),
        order=["item_idx"],
        fields=_FIELDS,
        reach=config.max_items_per_user,
        prepare=partial(_prepare, blocks=blocks, **_parameters(config)),
    )
    rows = rows.select(*PAIR_COLUMNS[:-1], F.timestamp_micros("last_ts").alias("last_ts"), "counts")
    return Mined(rows=rows, names=PAIR_COUNTS, skew=skew)


def _cap_users(user_items: DataFrame, config: Swing) -> DataFrame:
    """Lists of users with enough items, cut or left out above the cap; adds ``items``, |I_u|."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    most = config.max_items_per_user
    size = F.count("*").over(Window.partitionBy("user_idx"))
    sized = user_items.withColumn("items", size)
    sized = sized.where(F.col("items") >= config.min_items_per_user)
    if config.over_cap == "drop":
        return sized.where(F.col("items") <= most)
    return top_k(sized, ["user_idx"], [F.desc("ts"), F.asc("item_idx")], most)


def _sample_users(lists: DataFrame, config: Swing, seed: int) -> DataFrame:
    """Adds ``sampled``: whether the user is among the item's ``max_users_per_item``.

    xxhash64 of one number is a bijection, so two users never have the same hash, and the largest
    hash that a hot item keeps says it all. Only hot items have such a threshold.
    """
    from pyspark.sql import functions as F

    most = config.max_users_per_item
    hashed = lists.withColumn("hash", F.xxhash64(F.lit(seed), F.col("user_idx").cast("bigint")))
    hot = hashed.groupBy("item_idx").count().where(F.col("count") > most)
    kept = top_k(hashed.join(hot, "item_idx", "left_semi"), ["item_idx"], [F.asc("hash")], most)
    thresholds = kept.groupBy("item_idx").agg(F.max("hash").alias("threshold"))
    within = F.col("threshold").isNull() | (F.col("hash") <= F.col("threshold"))
    joined = hashed.join(thresholds, "item_idx", "left").withColumn("sampled", within)
    return joined.drop("hash", "threshold")


def _skew(
    user_items: DataFrame, lists: DataFrame, config: Swing
) -> tuple[dict[str, Any], int, int]:
    """Facts about caps; entries of all lists; entries shipped if each item were a block."""
    from pyspark.sql import functions as F

    users = user_items.groupBy("user_idx").agg(
        F.count("*").alias("n"), F.sum("events").alias("events")
    )
    few = F.col("n") < config.min_items_per_user
    before = users.agg(
        F.count("*").alias("users"),
        F.count_if(few).alias("users_few"),
        F.count_if(~few & (F.col("n") > config.max_items_per_user)).alias("users_capped"),
        F.max("n").alias("most_items"),
        F.sum("events").alias("events"),
        F.sum(F.when(few, F.col("events")).otherwise(0)).alias("events_few"),
    )
    items = lists.groupBy("item_idx").agg(
        F.count("*").alias("n"),
        F.sum("events").alias("events"),
        F.sum(F.when(F.col("sampled"), F.col("events")).otherwise(0)).alias("sampled"),
        F.sum(F.least("items", F.lit(config.max_items_per_user))).alias("shipped"),
    )
    after = items.agg(
        F.count_if(F.col("n") > config.max_users_per_item).alias("items_capped"),
        F.max("n").alias("most_users"),
        F.sum("n").alias("entries"),
        F.sum("events").alias("events_kept"),
        F.sum("sampled").alias("events_sampled"),
        F.sum("shipped").alias("shipped"),
    )
    row = before.crossJoin(after).first()  # one row each, in one job
    assert row is not None
    n = {name: int(value or 0) for name, value in row.asDict().items()}
    lost = n["events"] - n["events_few"] - n["events_kept"]
    skew = {
        "users": n["users"],
        "users_below_min_items": n["users_few"],
        "users_capped": n["users_capped"],
        "items_capped": n["items_capped"],
        "most_items_of_a_user": n["most_items"],
        "most_users_of_an_item": n["most_users"],
        "share_of_events_below_min_items": _share(n["events_few"], n["events"]),
        "share_of_events_lost_to_user_cap": _share(lost, n["events"]),
        "share_of_events_lost_to_item_cap": _share(
            n["events_kept"] - n["events_sampled"], n["events"]
        ),
    }
    return skew, n["entries"], n["shipped"]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _parameters(config: Swing) -> dict[str, Any]:
    """What the kernel needs to know; plain numbers, so that executors need no configuration."""
    return config.model_dump(include={"alpha1", "alpha2", "beta", "min_support", "top_k"})


def _prepare(
    block: Block,
    blocks: int,
    alpha1: float,
    alpha2: float,
    beta: float,
    min_support: int,
    top_k: int,
) -> tuple[Index, Call]:
    """The kernel call of a block. A user's list comes whole, so its length is |I_u|."""
    from qarm.pairs.swing_kernel import score_swing

    entries = block.entries
    sampled = np.ascontiguousarray(entries["sampled"])
    index = index_block(block, sampled & (entries["item_idx"] % blocks == block.number))
    ts, weight = (np.ascontiguousarray(entries[name]) for name in ("ts", "weight"))
    user_weight = (np.diff(block.indptr) + alpha1) ** -beta

    def call(first: int, capacity: int, tally: np.ndarray) -> Any:
        return score_swing(
            index.trigger,
            index.trigger_indptr,
            index.trigger_entry,
            index.entry_user,
            block.indptr,
            index.code,
            sampled,
            ts,
            weight,
            user_weight,
            float(alpha2),
            min_support,
            top_k,
            first,
            capacity,
            tally,
        )

    return index, call
