"""ItemCF pairs: items that occur close together in users' event sequences."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.pairs.blocks import Block, Call, Routing, Scored, count_blocks, score_in_blocks
from qarm.pairs.hot_items import crowded_items, score_in_shards, shard_users
from qarm.pairs.lists import LatestEvents, pack_lists
from qarm.pairs.mass import ALL_PAIRS, MOST_EVENTS, sample_triggers, share_of_mass_lost
from qarm.pairs.mined import PAIR_COLUMNS, PAIR_COUNTS, Keep, Mined, recompute
from qarm.pairs.tally import tally_items

if TYPE_CHECKING:
    from pyspark.core.broadcast import Broadcast
    from pyspark.sql import DataFrame

    from qarm.config.pairs import ItemCF
    from qarm.kernels.cooccurrence import Rules

    #: item_idx int64[n], ascending, and W float64[n].
    Weights = Broadcast[tuple[NDArray[Any], NDArray[Any]]]

_DAY_MICROS = 86_400_000_000
_NOTHING = np.empty(0, np.int64)


def itemcf(events: DataFrame, config: ItemCF) -> DataFrame:
    """Windowed co-occurrence with cosine normalisation, both directions.

    c(i,j) = sum over users and over their events a of i and b of j at most ``window_events`` and
    ``window_days`` apart of recency^(gap - 1) * weight_a * weight_b. The gap counts the given
    events in the order of ``seq``, 1 for neighbours, so that events that were filtered out before
    leave no hole. s(i,j) = c(i,j) / sqrt(W_i W_j), W the sum of an item's event weights. Only the
    latest ``max_events_per_user`` events of each user count, for W as well.

    Args:
        events: user_idx, item_idx, ts, seq, weight.
        config: see qarm.config.pairs.ItemCF.

    Returns:
        trigger, target, score, support (distinct users), weight (c), last_ts (latest event of a
        co-occurrence).
    """
    return mine_itemcf(events, config).pairs


def mine_itemcf(
    events: DataFrame,
    config: ItemCF,
    keep: Keep = recompute,
    wanted: NDArray[Any] | None = None,
) -> Mined:
    """``itemcf`` with counts of dropped pairs (``PAIR_COUNTS``) and facts about skew.

    ``wanted``: int64[w], ascending, at least one: the only triggers to score; None: all.
    """
    from pyspark.sql import functions as F

    width = 2 * (config.window_events or config.max_events_per_user) + 1
    lists = keep(pack_lists(events, LatestEvents(config.max_events_per_user)))
    items = keep(tally_items(lists, width=width))
    skew, n = _skew(lists, items)
    # A window that no user's list exceeds is none: all events of a user co-occur.
    reach = min(config.window_events or config.max_events_per_user, int(n["longest"]))
    everything = config.recency == 1.0 and reach >= n["longest"]
    recency = config.recency ** np.arange(reach)
    largest = (n["largest_degree"] * n["heaviest"] * 2 * recency.sum()) or 1.0
    rules = make_rules(config, np.empty(0) if everything else recency, largest)
    weights = _broadcast(items)
    prepare = partial(prepare_block, weights=weights, rules=rules)
    crowded = crowded_items(items, int(n["nearest"]))
    some = _NOTHING if wanted is None else wanted
    blocks = count_blocks(lists, int(n["kept"]), reach)
    routing = Routing(blocks, reach, wanted=some, left_out=crowded)
    rows = score_in_blocks(lists, routing, prepare)
    if wanted is not None:
        crowded = np.intersect1d(crowded, wanted)
    if len(crowded):
        sums = rules._replace(min_support=1, top_k=ALL_PAIRS)
        of_crowded = score_in_shards(
            lists,
            shard_users(lists, crowded, int(n["kept"]), reach),
            partial(prepare_sums, weights=weights, rules=sums),
            partial(_normalise, weights=weights, scale=rules.scale),
            config.min_support,
            config.top_k,
        )
        rows = rows.unionAll(of_crowded)
    rows = rows.select(*PAIR_COLUMNS[:-1], F.timestamp_micros("last_ts").alias("last_ts"), "counts")
    return Mined(rows=rows, names=PAIR_COUNTS, skew=skew)


def itemcf_mass_lost(events: DataFrame, config: ItemCF, keep: Keep) -> float | None:
    """Share of score mass that the cap of users costs; see ``qarm.pairs.mass``."""
    everything = config.model_copy(update={"top_k": ALL_PAIRS, "min_support": 1})
    uncapped = everything.model_copy(update={"max_events_per_user": MOST_EVENTS})

    def mine(caps: bool, triggers: NDArray[Any]) -> Mined:
        return mine_itemcf(events, everything if caps else uncapped, keep, triggers)

    return share_of_mass_lost(sample_triggers(events), mine)


def make_rules(config: ItemCF, recency: NDArray[Any], largest: float) -> Rules:
    """What the kernel counts.

    Args:
        config: see qarm.config.pairs.ItemCF.
        recency: float64[window]; empty: all events of a user co-occur.
        largest: upper bound of c; fixes the scale, the largest power of two with which no sum
            leaves 62 bits.
    """
    from qarm.kernels.cooccurrence import FOREVER, Rules

    return Rules(
        recency,
        int(config.window_days * _DAY_MICROS) or FOREVER,
        2.0 ** math.floor(62 - math.log2(largest)),
        config.min_support,
        config.top_k,
    )


def _broadcast(items: DataFrame) -> Weights:
    """One number per item on each worker."""
    columns = items.select("item_idx", "weight").toArrow()
    item, weight = (columns[k].to_numpy() for k in range(2))
    order = np.argsort(item)
    return items.sparkSession.sparkContext.broadcast((item[order], weight[order]))


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
        F.max("heaviest").alias("heaviest"),
        F.max("entries").alias("largest_item"),
        F.max("near").alias("nearest"),
    )
    row = before.crossJoin(after).first()  # one row each, in one job
    assert row is not None
    n = {name: value or 0 for name, value in row.asDict().items()}
    skew = {
        "users": n["users"],
        "users_capped": n["users_capped"],
        "items_capped": 0,
        "most_events_of_a_user": n["largest_user"],
        "most_events_of_an_item": n["largest_item"],
        "share_of_events_lost_to_user_cap": 1 - n["kept"] / n["events"] if n["events"] else 0.0,
    }
    return skew, n


def _normalise(
    trigger: NDArray[Any],
    target: NDArray[Any],
    units: NDArray[Any],
    weights: Weights,
    scale: float,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores and c of whole sums, equal to the kernel's to the last bit."""
    items, weight = weights.value
    one, other = (inverse_root(weight[np.searchsorted(items, s)]) for s in (trigger, target))
    c = units / scale
    return c * (one * other), c


def inverse_root(weight: NDArray[Any]) -> NDArray[Any]:
    """1 / sqrt; 0 where the weight is 0: so is the score."""
    return np.where(weight > 0, np.maximum(weight, 1e-300) ** -0.5, 0.0)


def prepare_block(block: Block, weights: Weights, rules: Rules) -> Call:
    """The kernel call of a block, with c as a number."""
    sums = prepare_sums(block, weights, rules)

    def call(first: int, capacity: int, tally: NDArray[Any]) -> Scored:
        *columns, units, ts = sums(first, capacity, tally)
        return (*columns, units / rules.scale, ts)  # type: ignore[return-value]

    return call


def prepare_sums(block: Block, weights: Weights, rules: Rules) -> Call:
    """The kernel call of a block, with c in units of 1/scale."""
    from qarm.kernels.cooccurrence import Lists, score_itemcf

    items, weight = weights.value
    codes = len(block.items)
    code = np.argsort(-np.bincount(block.code, minlength=codes), kind="stable")
    place_of = np.empty(codes, np.int64)
    place_of[code] = np.arange(codes)
    lists = Lists(
        block.trigger,
        block.trigger_indptr,
        block.trigger_entry,
        block.trigger_user,
        block.indptr,
        place_of[block.code].astype(np.int32),
        block.position,
        block.ts,
        block.weight,
        code,
        place_of,
        inverse_root(weight[np.searchsorted(items, block.items[code])]),
    )
    return partial(score_itemcf, lists, rules)
