"""ItemCF pairs: items that occur close together in users' sequences."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qarm.pairs.blocks import Block, Call, Routing, Scored, count_blocks, score_in_blocks
from qarm.pairs.hot_items import crowded_items, score_in_shards, shard_users
from qarm.pairs.itemcf_days import of_latest_days
from qarm.pairs.lists import LatestEvents, pack_lists
from qarm.pairs.mass import ALL_PAIRS, MOST_EVENTS, sample_triggers, share_of_mass_lost
from qarm.pairs.mined import PAIR_COLUMNS, Keep, Mined, recompute
from qarm.pairs.tally import decay_of, tally_items

if TYPE_CHECKING:
    from pyspark.core.broadcast import Broadcast
    from pyspark.sql import DataFrame

    from qarm.config.pairs import ItemCF
    from qarm.kernels.cooccurrence import Lists, Rules

#: Pairs that co-occur, and reasons to drop one.
PAIR_COUNTS = ("scored", "below_min_support", "beyond_top_k")

_DAY_MICROS = 86_400_000_000
_NOTHING = np.empty(0, np.int64)


def itemcf(events: DataFrame, config: ItemCF) -> DataFrame:
    """Windowed co-occurrence, both directions.

    c(i,j) = sum over users and over their events a of i and b of j at most ``window_events`` and
    ``window_days`` apart of recency^(gap - 1) * weight_a * weight_b * decay. The gap counts the
    given events in the order of ``seq``, 1 for neighbours, so that events that were filtered out
    before leave no hole. decay = 2^(-age / half_life_days), age the days from the day of the later
    event to the day of the latest event of all. c becomes a score by ``qarm.kernels.cooccurrence``,
    with W the sum of an item's decayed event weights. Only the latest ``max_events_per_user``
    events of a user are looked at, for W as well, and of those only ``history_days``.

    With ``counts = "users"``, c adds up the largest term of each user, and W the largest decayed
    weight of each user's events of the item.

    Args:
        events: user_idx, item_idx, ts, seq, weight.
        config: see qarm.config.ItemCF.

    Returns:
        trigger, target, score, support (distinct users), weight (c), last_ts (latest event of a
        co-occurrence).
    """
    return mine_itemcf(events, config).pairs


def mine_itemcf(
    events: DataFrame,
    config: ItemCF,
    keep: Keep = recompute,
    wanted: np.ndarray | None = None,
) -> Mined:
    """``itemcf`` with counts of dropped pairs (``PAIR_COUNTS``) and facts about skew.

    ``wanted``: int64[w], ascending: the only triggers to score, at least one; None: all.
    """
    from pyspark.sql import functions as F

    events = of_latest_days(events, config.history_days)
    half_life = config.half_life_days * _DAY_MICROS or math.inf
    last = _last_ts(events) if config.half_life_days else 0
    width = 2 * (config.window_events or config.max_events_per_user) + 1
    once = config.counts == "users"
    lists = keep(pack_lists(events, LatestEvents(config.max_events_per_user)))
    items = keep(tally_items(lists, half_life, last, width=width, once_a_user=once))
    skew, n = _skew(lists, items)
    # A window that nobody's list exceeds is none: all events of a user meet.
    reach = min(config.window_events or config.max_events_per_user, int(n["longest"]))
    everything = config.recency == 1.0 and reach >= n["longest"]
    recency = config.recency ** np.arange(reach)
    largest = (n["largest_degree"] * n["heaviest"] * 2 * recency.sum()) or 1.0
    rules = _rules(config, np.empty(0) if everything else recency, _scale(largest), n)
    prepare = partial(
        _prepare, degrees=_broadcast(items), rules=rules, half_life=half_life, last=last
    )
    crowded = crowded_items(items, int(n["nearest"]))
    some = _NOTHING if wanted is None else wanted
    blocks = count_blocks(lists, int(n["kept"]), reach)
    routing = Routing(blocks, reach, wanted=some, left_out=crowded)
    rows = score_in_blocks(lists, routing, prepare)
    if wanted is not None:
        crowded = np.intersect1d(crowded, wanted)
    if len(crowded):
        rows = rows.unionAll(_score_crowded(lists, crowded, reach, prepare, config, n))
    rows = rows.select(*PAIR_COLUMNS[:-1], F.timestamp_micros("last_ts").alias("last_ts"), "counts")
    return Mined(rows=rows, names=PAIR_COUNTS, skew=skew)


def itemcf_mass_lost(events: DataFrame, config: ItemCF, keep: Keep) -> float | None:
    """Share of score mass that the cap of users costs; see ``qarm.pairs.mass``."""
    everything = config.model_copy(update={"top_k": ALL_PAIRS, "min_support": 1})
    uncapped = everything.model_copy(update={"max_events_per_user": MOST_EVENTS})

    def mine(caps: bool, triggers: np.ndarray) -> Mined:
        return mine_itemcf(events, everything if caps else uncapped, keep, triggers)

    return share_of_mass_lost(sample_triggers(events), mine)


def _last_ts(events: DataFrame) -> int:
    """Microseconds of the latest event; decay counts from its day."""
    from pyspark.sql import functions as F

    row = events.agg(F.max(F.unix_micros("ts"))).first()
    assert row is not None
    return int(row[0] or 0)


def _broadcast(items: DataFrame) -> Broadcast[tuple[np.ndarray, np.ndarray]]:
    """(item_idx ascending, W): one number an item on each worker."""
    columns = items.select("item_idx", "decayed").toArrow()
    item, degree = (columns[k].to_numpy() for k in range(2))
    order = np.argsort(item)
    return items.sparkSession.sparkContext.broadcast((item[order], degree[order]))


def _scale(largest: float) -> float:
    """Steps of one unit: the largest power of two with which no sum leaves 62 bits."""
    return 2.0 ** math.floor(62 - math.log2(largest))


def _skew(lists: DataFrame, items: DataFrame) -> tuple[dict[str, Any], dict[str, float]]:
    """Facts about caps, and the numbers they come from."""
    from pyspark.sql import functions as F

    kept = F.col("kept_events")
    before = lists.agg(
        F.count("*").alias("users"),
        F.count_if(F.col("events") > kept).alias("users_capped"),
        F.max("events").alias("largest_user"),
        F.sum("events").alias("events"),
        F.sum(kept).alias("kept"),
        F.max(kept).alias("longest"),
    )
    after = items.agg(
        F.max("weight").alias("largest_degree"),
        F.sum(F.col("decayed").cast("decimal(28,12)")).cast("double").alias("total_weight"),
        F.count("*").alias("items"),
        F.max("heaviest").alias("heaviest"),
        F.max("entries").alias("largest_item"),
        F.max("near").alias("nearest"),
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


def _rules(config: ItemCF, recency: np.ndarray, scale: float, n: dict[str, float]) -> Rules:
    """What the kernel needs to know."""
    from qarm.kernels.cooccurrence import NORMALIZATIONS, Rules

    return Rules(
        recency,
        int(config.window_days * _DAY_MICROS) or np.iinfo(np.int64).max,
        scale,
        NORMALIZATIONS.index(config.normalization),
        np.array([n["total_weight"], n["mean_weight"], config.bm25_k1, config.bm25_b]),
        config.min_support,
        config.top_k,
        config.counts == "users",
    )


def _score_crowded(
    lists: DataFrame,
    crowded: np.ndarray,
    reach: int,
    prepare: partial[Call],
    config: ItemCF,
    n: dict[str, float],
) -> DataFrame:
    """Rows of the triggers ``crowded``, each block with some of the users."""
    degrees, rules = prepare.keywords["degrees"], prepare.keywords["rules"]
    sums = rules._replace(kind=0, min_support=1, top_k=ALL_PAIRS)
    return score_in_shards(
        lists,
        shard_users(lists, crowded, int(n["kept"]), reach),
        partial(_prepare_sums, **{**prepare.keywords, "rules": sums}),
        partial(_normalise, degrees=degrees, rules=rules),
        config.min_support,
        config.top_k,
    )


def _normalise(
    trigger: np.ndarray,
    target: np.ndarray,
    units: np.ndarray,
    degrees: Broadcast[tuple[np.ndarray, np.ndarray]],
    rules: Rules,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and c of whole sums."""
    from qarm.kernels.cooccurrence import NORMALIZATIONS, normalise_all

    items, degree = degrees.value
    one, other = (degree[np.searchsorted(items, side)] for side in (trigger, target))
    c = units / rules.scale
    if NORMALIZATIONS[rules.kind] == "cosine":  # as the kernel does, to the last bit
        return c * (_inverse_root(one) * _inverse_root(other)), c
    return normalise_all(rules.kind, c, one, other, rules.totals), c


def _inverse_root(degree: np.ndarray) -> np.ndarray:
    """1 / sqrt; 0 where the weight is 0: so is the score."""
    return np.where(degree > 0, np.maximum(degree, 1e-300) ** -0.5, 0.0)


def _prepare(
    block: Block,
    degrees: Broadcast[tuple[np.ndarray, np.ndarray]],
    rules: Rules,
    half_life: float,
    last: int,
) -> Call:
    """The kernel call of a block."""
    sums = _prepare_sums(block, degrees, rules, half_life, last)

    def call(first: int, capacity: int, tally: np.ndarray) -> Scored:
        *columns, units, ts = sums(first, capacity, tally)
        return (*columns, units / rules.scale, ts)  # type: ignore[return-value]

    return call


def _prepare_sums(
    block: Block,
    degrees: Broadcast[tuple[np.ndarray, np.ndarray]],
    rules: Rules,
    half_life: float,
    last: int,
) -> Call:
    """The kernel call of a block, with c in steps of 1/scale."""
    from qarm.kernels.cooccurrence import Lists, score_counts, score_itemcf
    from qarm.pairs.itemcf_counts import count_lists, has_repeats

    items, degree = degrees.value
    own = degree[np.searchsorted(items, block.items)]
    lists = Lists(
        block.trigger,
        block.trigger_indptr,
        block.trigger_entry,
        block.trigger_user,
        block.indptr,
        block.code,
        block.position,
        block.ts,
        block.weight,
        np.empty(0) if math.isinf(half_life) else decay_of(block.ts, half_life, last),
        own,
        _inverse_root(own),
    )
    alike = _alike(lists, rules)
    if not alike:
        return partial(score_itemcf, lists, rules)
    repeats = has_repeats(lists.indptr, lists.code, len(lists.degree))
    if repeats and rules.once_a_user:
        return partial(score_itemcf, lists, rules)
    return partial(score_counts, count_lists(lists, alike, repeats), rules)


def _alike(lists: Lists, rules: Rules) -> int:
    """Steps that each co-occurrence counts, where all count the same and every user's list meets
    itself whole; 0: they differ."""
    bounded = len(rules.recency) > 0 or rules.window_micros < np.iinfo(np.int64).max
    weight = lists.weight[0]
    if bounded or len(lists.decay) or (lists.weight != weight).any():
        return 0
    return math.floor(weight * weight * rules.scale + 0.5)
