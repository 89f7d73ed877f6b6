"""Swing ("exploitation") pairs: items joined by pairs of users who share little else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qarm.pairs.blocks import Block, Call, Routing, count_blocks, score_in_blocks
from qarm.pairs.lists import RECORD, DistinctItems, pack_lists, read_binary
from qarm.pairs.mass import (
    ALL_PAIRS,
    MOST_EVENTS,
    MOST_USERS,
    sample_triggers,
    share_of_mass_lost,
)
from qarm.pairs.mined import PAIR_COLUMNS, PAIR_COUNTS, Keep, Mined, recompute
from qarm.pairs.tally import tally_items
from qarm.pairs.topk import top_k

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from qarm.config.pairs import Swing


def swing(events: DataFrame, config: Swing, seed: int) -> DataFrame:
    """Swing pairs, both directions: s(i,j) = sum over unordered pairs {u,v} of common users of
    w_u w_v / (alpha2 + |I_u n I_v|), w_u = 1/(|I_u| + alpha1)^beta (arXiv 2010.05525).

    I_u are the latest ``max_items_per_user`` distinct items (none if there are more and over_cap =
    "drop") of a user with at least ``min_items_per_user``. An item keeps the
    ``max_users_per_item`` users with the smallest hash(user, seed), the same hash for all items:
    the sum runs over users that both items keep, so s(i,j) = s(j,i), reruns agree, and common users
    are kept at the rate of the hotter item. Scores of hot items are therefore too small by about
    the square of that rate; they are not scaled up.

    Args:
        events: user_idx, item_idx, ts, weight.
        config: see qarm.config.pairs.Swing.
        seed: seed of the user sample.

    Returns:
        trigger, target, score, support (common users), weight (of their events with either item),
        last_ts (latest such event). Only pairs with two common users have a score.
    """
    return mine_swing(events, config, seed).pairs


def mine_swing(events: DataFrame, config: Swing, seed: int, keep: Keep = recompute) -> Mined:
    """``swing`` with counts of dropped pairs (``PAIR_COUNTS``) and facts about skew."""
    return score_lists(list_users(events, config, seed, keep), config)


class UserLists(NamedTuple):
    """Users' lists and the sample of users, before any pair is scored."""

    lists: DataFrame
    """``lists.LISTS_SCHEMA`` and user_hash."""
    hot_item: NDArray[Any]
    """int64[h], ascending: items with more users than they keep."""
    hot_threshold: NDArray[Any]
    """int64[h], the largest user hash that each keeps."""
    blocks: int
    skew: dict[str, Any]


def list_users(events: DataFrame, config: Swing, seed: int, keep: Keep) -> UserLists:
    """Users' capped lists, and which users each item keeps."""
    from pyspark.sql import functions as F

    packer = DistinctItems(
        config.min_items_per_user, config.max_items_per_user, config.over_cap == "drop"
    )
    hashed = F.xxhash64(F.lit(seed), F.col("user_idx"))
    # The order within a user is given by ts alone.
    plain = events.select("user_idx", "item_idx", "ts", F.lit(0).alias("seq"), "weight")
    lists = keep(pack_lists(plain, packer).withColumn("user_hash", hashed))
    items = keep(tally_items(lists))
    hot = _thresholds(lists, items, config.max_users_per_item)
    skew, entries = _skew(lists, items, config, hot)
    blocks = count_blocks(lists, entries, config.max_items_per_user)
    return UserLists(lists, *hot, blocks, skew)


def score_lists(users: UserLists, config: Swing, wanted: NDArray[Any] | None = None) -> Mined:
    """Score all triggers, or the ``wanted`` ones (int64[w], ascending, at least one)."""
    from pyspark.sql import functions as F

    routing = Routing(users.blocks, config.max_items_per_user, users.hot_item, users.hot_threshold)
    if wanted is not None:
        routing = routing._replace(wanted=wanted)
    rows = score_in_blocks(users.lists, routing, partial(_prepare, **_parameters(config)))
    rows = rows.select(*PAIR_COLUMNS[:-1], F.timestamp_micros("last_ts").alias("last_ts"), "counts")
    return Mined(rows=rows, names=PAIR_COUNTS, skew=users.skew)


def swing_mass_lost(events: DataFrame, config: Swing, seed: int, keep: Keep) -> float | None:
    """Share of score mass that the caps cost; see ``qarm.pairs.mass``."""
    everything = config.model_copy(update={"top_k": ALL_PAIRS, "min_support": 1})
    uncapped = everything.model_copy(
        update={
            "max_items_per_user": MOST_EVENTS,
            "max_users_per_item": max(MOST_USERS, config.max_users_per_item),
            "over_cap": "latest",
        }
    )

    def mine(caps: bool, triggers: NDArray[Any]) -> Mined:
        chosen = everything if caps else uncapped
        return score_lists(list_users(events, chosen, seed, keep), chosen, triggers)

    return share_of_mass_lost(sample_triggers(events), mine)


def _thresholds(lists: DataFrame, items: DataFrame, most: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Items with more users than ``most``, ascending, and the largest hash that each keeps.

    xxhash64 of one number is a bijection, so two users never have the same hash, and the largest
    hash that a hot item keeps defines its users. There are fewer hot items than entries / ``most``.
    """
    from pyspark.sql import functions as F

    hot = items.where(F.col("entries") > most).select("item_idx").toArrow().column(0).to_numpy()
    hot = np.sort(hot)
    if not len(hot):
        return hot, hot
    hashes = lists.select("user_hash", "entries").mapInArrow(
        partial(stream_hashes, items=hot, most=most), "item_idx bigint, hash bigint"
    )
    kept = top_k(hashes, ["item_idx"], [F.asc("hash")], most)
    largest = kept.groupBy("item_idx").agg(F.max("hash").alias("hash")).toArrow()
    item, threshold = (largest.column(k).to_numpy() for k in range(2))
    return hot, threshold[np.argsort(item)]


def stream_hashes(
    batches: Iterable[pa.RecordBatch], items: NDArray[Any], most: int
) -> Iterator[pa.RecordBatch]:
    """(user_hash, list) -> (item, hash) of ``items``, the smallest ``most`` of each batch."""
    import pyarrow as pa

    for batch in batches:
        indptr, entries = read_binary(batch.column(1), RECORD)
        hashes = np.repeat(batch.column(0).to_numpy(), np.diff(indptr))
        item = entries["item"].astype(np.int64)
        there = np.isin(item, items)
        item, hashes = item[there], hashes[there]
        order = np.lexsort((hashes, item))
        item, hashes = item[order], hashes[order]
        place = np.arange(len(item)) - np.searchsorted(item, item)
        few = place < most
        yield pa.record_batch(
            [pa.array(item[few]), pa.array(hashes[few])], names=["item_idx", "hash"]
        )


def stream_unsampled(
    batches: Iterable[pa.RecordBatch],
    hot_item: NDArray[Any],
    hot_threshold: NDArray[Any],
) -> Iterator[pa.RecordBatch]:
    """(user_hash, list) -> events of entries whose user the item does not keep."""
    import pyarrow as pa

    for batch in batches:
        indptr, entries = read_binary(batch.column(1), RECORD)
        hashes = np.repeat(batch.column(0).to_numpy(), np.diff(indptr))
        at = np.minimum(np.searchsorted(hot_item, entries["item"]), len(hot_item) - 1)
        out = (hot_item[at] == entries["item"]) & (hashes > hot_threshold[at])
        yield pa.record_batch([pa.array([int(entries["mark"][out].sum())])], names=["events"])


def _skew(
    lists: DataFrame,
    items: DataFrame,
    config: Swing,
    hot: tuple[NDArray[Any], NDArray[Any]],
) -> tuple[dict[str, Any], int]:
    """Facts about caps, and the entries of all lists."""
    from pyspark.sql import functions as F

    few = F.col("found") < config.min_items_per_user
    lost = F.col("events") - F.col("kept_events")
    before = lists.agg(
        F.count("*").alias("users"),
        F.count_if(few).alias("users_few"),
        F.count_if(~few & (F.col("found") > config.max_items_per_user)).alias("users_capped"),
        F.max("found").alias("most_items"),
        F.sum("events").alias("events"),
        F.sum(F.when(few, lost).otherwise(0)).alias("events_few"),
        F.sum(F.when(few, 0).otherwise(lost)).alias("events_capped"),
    )
    after = items.agg(
        F.count_if(F.col("entries") > config.max_users_per_item).alias("items_capped"),
        F.max("entries").alias("most_users"),
        F.sum("entries").alias("entries"),
    )
    row = before.crossJoin(after).first()  # one row each, in one job
    assert row is not None
    n = {name: int(value or 0) for name, value in row.asDict().items()}
    unsampled = 0
    if len(hot[0]):
        streamed = lists.select("user_hash", "entries").mapInArrow(
            partial(stream_unsampled, hot_item=hot[0], hot_threshold=hot[1]), "events bigint"
        )
        unsampled = int((streamed.agg(F.sum("events")).first() or [0])[0] or 0)
    skew = {
        "users": n["users"],
        "users_below_min_items": n["users_few"],
        "users_capped": n["users_capped"],
        "items_capped": n["items_capped"],
        "most_items_of_a_user": n["most_items"],
        "most_users_of_an_item": n["most_users"],
        "share_of_events_below_min_items": _share(n["events_few"], n["events"]),
        "share_of_events_lost_to_user_cap": _share(n["events_capped"], n["events"]),
        "share_of_events_lost_to_item_cap": _share(unsampled, n["events"]),
    }
    return skew, n["entries"]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _parameters(config: Swing) -> dict[str, Any]:
    """Parameters of the kernel as plain numbers, so that executors need no configuration."""
    return config.model_dump(include={"alpha1", "alpha2", "beta", "min_support", "top_k"})


def _prepare(
    block: Block, alpha1: float, alpha2: float, beta: float, min_support: int, top_k: int
) -> Call:
    """The kernel call of a block. A block has whole lists, so a list's length is |I_u|."""
    from qarm.kernels.swing_scores import score_swing

    user_weight = (np.diff(block.indptr) + alpha1) ** -beta

    def call(first: int, capacity: int, tally: NDArray[Any]) -> Any:
        return score_swing(
            block.trigger,
            block.trigger_indptr,
            block.trigger_entry,
            block.trigger_user,
            block.indptr,
            block.code,
            block.sampled,
            block.ts,
            block.weight,
            user_weight,
            float(alpha2),
            min_support,
            top_k,
            first,
            capacity,
            tally,
        )

    return call
