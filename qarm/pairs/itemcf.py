"""ItemCF pairs: items that occur close together in users' sequences."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qarm.pairs.blocks import Block, Call, Index, count_blocks, index_block, score_in_blocks
from qarm.pairs.mined import PAIR_COLUMNS, Keep, Mined, recompute
from qarm.pairs.topk import exact_sum, top_k

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from qarm.config.learning import ItemCF

#: Pairs that co-occur, and reasons to drop one.
PAIR_COUNTS = ("scored", "below_min_support", "beyond_top_k")

_FIELDS = (
    ("item_idx", "<i8"),
    ("position", "<i8"),
    ("ts", "<i8"),
    ("weight", "<f8"),
    ("decay", "<f8"),
    ("degree", "<f8"),
)
_DAY_MICROS = 86_400_000_000


def itemcf(events: DataFrame, config: ItemCF) -> DataFrame:
    """Windowed co-occurrence, both directions.

    c(i,j) = sum over users and over their events a of i and b of j at most ``window_events`` and
    ``window_days`` apart of recency^(gap - 1) * weight_a * weight_b * decay. The gap counts the
    given events in the order of ``seq``, 1 for neighbours, so that events that were filtered out
    before leave no hole. decay = 2^(-age / half_life_days), age the days from the day of the later
    event to the day of the latest event of all. c becomes a score by ``qarm.pairs.itemcf_kernel``,
    with W the sum of an item's decayed event weights. Only the latest ``max_events_per_user``
    events of a user are looked at, for W as well.

    Args:
        events: user_idx, item_idx, ts, seq, weight.
        config: see qarm.config.learning.ItemCF.

    Returns:
        trigger, target, score, support (distinct users), weight (c), last_ts (latest event of a
        co-occurrence).
    """
    return mine_itemcf(events, config).pairs


def mine_itemcf(events: DataFrame, config: ItemCF, keep: Keep = recompute) -> Mined:
    """``itemcf`` with counts of dropped pairs (``PAIR_COUNTS``) and facts about skew."""
    from pyspark.sql import functions as F

    plain = events.select(
        "user_idx",
        "item_idx",
        F.unix_micros("ts").alias("ts"),
        "seq",
        F.col("weight").cast("double").alias("weight"),
        _decay(events, config).alias("decay"),
    )
    order = [F.desc("seq"), F.desc("ts"), F.asc("item_idx"), F.asc("weight")]
    capped = keep(top_k(plain, ["user_idx"], order, config.max_events_per_user, rank="back"))
    degrees = capped.groupBy("item_idx").agg(
        exact_sum(F.col("weight") * F.col("decay")).alias("degree"),
        exact_sum("weight").alias("undecayed"),
        F.max("weight").alias("largest_weight"),
        F.count("*").alias("events"),
    )
    # Positions count backwards from the latest event: only their differences matter.
    lists = capped.withColumn("position", -F.col("back").cast("bigint"))
    lists = lists.join(degrees.select("item_idx", "degree"), "item_idx")

    reach = min(config.window_events or config.max_events_per_user, config.max_events_per_user)
    recency = config.recency ** np.arange(reach)
    skew, n = _skew(plain, degrees, config, reach)
    largest = (n["largest_degree"] or 1) * (n["largest_weight"] or 1) * 2 * recency.sum()
    blocks = count_blocks(events.sparkSession, int(n["kept"]), int(n["shipped"]))
    rows = score_in_blocks(
        lists.withColumn("block", F.pmod("item_idx", F.lit(blocks)).cast("bigint")),
        order=["position"],
        fields=_FIELDS,
        reach=reach,
        prepare=partial(
            _prepare,
            blocks=blocks,
            recency=recency,
            scale=_scale(largest),
            totals=(n["total_weight"], n["mean_weight"]),
            **_parameters(config),
        ),
    )
    rows = rows.select(*PAIR_COLUMNS[:-1], F.timestamp_micros("last_ts").alias("last_ts"), "counts")
    return Mined(rows=rows, names=PAIR_COUNTS, skew=skew)


def _decay(events: DataFrame, config: ItemCF) -> Column:
    """2^(-age / half-life) of each event, its age in days before the day of the latest event."""
    from pyspark.sql import functions as F

    if not config.half_life_days:
        return F.lit(1.0)
    day = F.floor(F.unix_micros("ts") / F.lit(_DAY_MICROS))
    last = events.agg(F.max(day)).first()
    assert last is not None
    return F.pow(F.lit(2.0), (day - F.lit(last[0] or 0)) / F.lit(config.half_life_days))


def _scale(largest: float) -> float:
    """Steps of one unit: the largest power of two with which no sum leaves 62 bits."""
    return 2.0 ** math.floor(62 - math.log2(largest))


def _skew(
    events: DataFrame, degrees: DataFrame, config: ItemCF, reach: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Facts about caps, and the numbers they come from."""
    from pyspark.sql import functions as F

    kept = F.least("n", F.lit(config.max_events_per_user))
    users = events.groupBy("user_idx").agg(F.count("*").alias("n"))
    before = users.agg(
        F.count("*").alias("users"),
        F.count_if(F.col("n") > config.max_events_per_user).alias("users_capped"),
        F.max("n").alias("largest_user"),
        F.sum("n").alias("events"),
        F.sum(kept).alias("kept"),
        F.sum(kept * F.least(kept, F.lit(2 * reach + 1))).alias("shipped"),
    )
    after = degrees.agg(
        F.max("undecayed").alias("largest_degree"),
        F.sum(F.col("degree").cast("decimal(28,12)")).cast("double").alias("total_weight"),
        F.count("*").alias("items"),
        F.max("largest_weight").alias("largest_weight"),
        F.max("events").alias("largest_item"),
    )
    row = before.crossJoin(after).first()  # one row each, in one job
    assert row is not None
    n = {name: value or 0 for name, value in row.asDict().items()}
    n["mean_weight"] = n["total_weight"] / n["items"] if n["items"] else 0.0
    skew = {
        "users": n["users"],
        "users_capped": n["users_capped"],
        "items_capped": 0,
        "most_events_of_a_user": n["largest_user"],
        "most_events_of_an_item": n["largest_item"],
        "share_of_events_lost_to_user_cap": 1 - n["kept"] / n["events"] if n["events"] else 0.0,
    }
    return skew, n


def _parameters(config: ItemCF) -> dict[str, Any]:
    """What the kernel needs to know; plain numbers, so that executors need no configuration."""
    from qarm.pairs.itemcf_kernel import NORMALIZATIONS

    micros = int(config.window_days * _DAY_MICROS)
    return {
        "window_micros": micros or np.iinfo(np.int64).max,
        "kind": NORMALIZATIONS.index(config.normalization),
        "bm25": (config.bm25_k1, config.bm25_b),
        "min_support": config.min_support,
        "top_k": config.top_k,
    }


def _prepare(
    block: Block,
    blocks: int,
    recency: np.ndarray,
    scale: float,
    totals: tuple[float, float],
    window_micros: int,
    kind: int,
    bm25: tuple[float, float],
    min_support: int,
    top_k: int,
) -> tuple[Index, Call]:
    """The kernel call of a block."""
    from qarm.pairs.itemcf_kernel import score_itemcf

    index = index_block(block, block.entries["item_idx"] % blocks == block.number)
    position, ts, weight, decay, degree = (
        np.ascontiguousarray(block.entries[name]) for name, _ in _FIELDS[1:]
    )
    numbers = np.array([*totals, *bm25], np.float64)

    def call(first: int, capacity: int, tally: np.ndarray) -> Any:
        return score_itemcf(
            index.trigger,
            index.trigger_indptr,
            index.trigger_entry,
            index.entry_user,
            block.indptr,
            index.code,
            position,
            ts,
            weight,
            decay,
            degree,
            recency,
            window_micros,
            scale,
            kind,
            numbers,
            min_support,
            top_k,
            first,
            capacity,
            tally,
        )

    return index, call
