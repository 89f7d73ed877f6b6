"""ItemCF of distinct users, night by night: only users whose list has changed are counted anew.

Users of different days are not distinct, so days do not add up, but users do. A user adds one term
to each of its pairs, the largest. Terms are integers and not decayed, so they can be taken away
again: a run compares the fingerprint of each user's list with that of the run before, subtracts
what the old lists of changed users had added, and adds what their new lists do. New events, late
ones, a backfill, an erased user, a removed item and events that grew too old are all the same case,
and the counts equal those of all users counted at once, to the last bit.

``itemcf_user_lists`` names the version of ``itemcf_user_counts`` that belongs to it, and is written
after it: a run that broke off in between left counts that nobody reads.

What it costs for 10^8 users with 50 events each and window_events = 5, before compression: lists,
10^8 x 50 x 24 bytes = 120 GB; counts, at most 10^8 x 50 x 5 = 2.5 x 10^10 rows of 44 bytes (equal
ones of several users are one row), which are read, added up and written every night that has a
change. Counting, which for ``mine_itemcf`` is all there is, is limited to the users who changed:
where most users do, or where few pairs repeat, ``mine_itemcf`` from scratch is the cheaper way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qarm.kernels.cooccurrence_days import UNITS
from qarm.lake.latest import latest
from qarm.lake.tables import TableRef
from qarm.pairs.itemcf_days import of_latest_days, score_days
from qarm.pairs.lists import RECORD, LatestEvents, names_of, pack_lists, read_binary
from qarm.pairs.mined import Keep
from schemas import itemcf_user_counts, itemcf_user_lists

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from qarm.config.pairs import ItemCF
    from qarm.pipeline.context import Context

_COUNTS_SCHEMA = (
    "trigger bigint, target bigint, day int, last_ts bigint, units bigint, users bigint"
)
_DAY_MICROS = 86_400_000_000
#: Co-occurrences that are listed at once: 100 bytes each.
_LISTED_TERMS = 1 << 20


class Counted(NamedTuple):
    """What a run counted."""

    pairs: DataFrame
    """All pairs, as of ``itemcf``."""
    tally: dict[str, int]
    """Of all pairs, as of ``score_days``."""
    skew: dict[str, Any]


def count_changed(
    context: Context, events: DataFrame, config: ItemCF, counted_with: str, keep: Keep
) -> Counted:
    """Bring the counts of distinct users up to date, and score them.

    Args:
        context: of the stage; writes itemcf_user_counts and itemcf_user_lists.
        events: all mined events, at least one: user_idx, item_idx, ts, seq, weight.
        config: see qarm.config.ItemCF.
        counted_with: hash of the code and of the settings that counts depend on.
        keep: keeps frames that are read more than once.
    """
    from pyspark.sql import functions as F

    events = of_latest_days(events, config.history_days)
    packed = keep(pack_lists(events, LatestEvents(config.max_events_per_user)))
    now = packed.select("user_idx", F.xxhash64("entries").alias("fingerprint"), "entries")
    before, counts = _state(context, counted_with)
    changed = keep(changed_users(now, before))
    users = changed.count()
    if users:
        gone = before.join(changed, "user_idx").select(F.lit(-1).alias("sign"), "entries")
        new = now.join(changed, "user_idx").select(F.lit(1).alias("sign"), "entries")
        terms = count_users(gone.unionByName(new), config)
        counted = context.overwrite(itemcf_user_counts.TABLE, add_up(counts.unionByName(terms)))
        stamped = now.withColumn("counts_version", F.lit(counted.version).cast("bigint"))
        context.overwrite(
            itemcf_user_lists.TABLE, stamped.withColumn("counted_with", F.lit(counted_with))
        )
    counts = context.table(itemcf_user_counts.TABLE.name)
    alone = F.col("trigger") == F.col("target")
    last = events.agg(F.max(F.to_date("ts"))).first()
    assert last is not None
    pairs, tally = score_days(
        counts.where(~alone).withColumnRenamed("users", "events"),
        counts.where(alone).select(
            "day", F.col("trigger").alias("item_idx"), (F.col("units") / UNITS).alias("weight")
        ),
        config,
        last[0],
        keep,
    )
    return Counted(pairs, tally, {**_skew(packed), "users_with_changes": users})


def _state(context: Context, counted_with: str) -> tuple[DataFrame, DataFrame]:
    """Lists of the run before, and their counts; empty where they were counted otherwise.

    The versions are published again, for a run that changes nothing.
    """
    lists = latest(context.lake, itemcf_user_lists.TABLE)
    counts = latest(context.lake, itemcf_user_counts.TABLE)
    first = lists.select("counts_version", "counted_with").first()  # the same in all rows
    if first is None or first["counted_with"] != counted_with:
        return lists.limit(0), counts.limit(0)
    context.pin(itemcf_user_lists.TABLE, context.lake.version(itemcf_user_lists.TABLE.name))
    counted: TableRef = context.pin(itemcf_user_counts.TABLE, first["counts_version"])
    return lists, context.lake.read(counted)


def changed_users(now: DataFrame, before: DataFrame) -> DataFrame:
    """(user_idx): users whose fingerprint is another one, or who are in one frame only."""
    from pyspark.sql import functions as F

    old = before.select("user_idx", F.col("fingerprint").alias("old"))
    both = now.select("user_idx", "fingerprint").join(old, "user_idx", "full")
    return both.where(~F.col("fingerprint").eqNullSafe(F.col("old"))).select("user_idx")


def count_users(lists: DataFrame, config: ItemCF) -> DataFrame:
    """What users add to the counts: rows of itemcf_user_counts, several of a key.

    Args:
        lists: sign (1, or -1 for what shall be taken away), entries (a packed list).
        config: see qarm.config.ItemCF.
    """
    from pyspark.sql import functions as F

    rows = lists.mapInArrow(
        partial(
            stream_terms,
            recency=config.recency ** np.arange(config.window_events or config.max_events_per_user),
            window_micros=int(config.window_days * _DAY_MICROS) or np.iinfo(np.int64).max,
            half_life_days=config.half_life_days,
        ),
        _COUNTS_SCHEMA,
    )
    return rows.withColumns(
        {"day": F.date_from_unix_date("day"), "last_ts": F.timestamp_micros("last_ts")}
    )


def add_up(counts: DataFrame) -> DataFrame:
    """One row a key of itemcf_user_counts; keys that no user is left of go."""
    from pyspark.sql import functions as F

    sums = counts.groupBy(*itemcf_user_counts.TABLE.key).agg(
        F.sum("units").alias("units"), F.sum("users").alias("users")
    )
    return sums.where("users > 0")


def stream_terms(
    batches: Iterable[pa.RecordBatch],
    recency: np.ndarray,
    window_micros: int,
    half_life_days: float,
) -> Iterator[pa.RecordBatch]:
    """Spark task: (sign, list) -> rows of ``_COUNTS_SCHEMA``."""
    import pyarrow as pa

    from qarm.kernels.cooccurrence_users import list_terms

    for batch in batches:
        sign = batch.column(0).to_numpy().astype(np.int64)
        indptr, entries = read_binary(batch.column(1), RECORD)
        lengths = np.diff(indptr)
        terms = np.cumsum(lengths * np.minimum(lengths, len(recency) + 1))
        first = 0
        while first < len(lengths):
            done = terms[first - 1] if first else 0
            last = max(int(np.searchsorted(terms, done + _LISTED_TERMS, "right")), first + 1)
            some = entries[indptr[first] : indptr[last]]
            (user, one, other, ts, latest_ts), value = list_terms(
                indptr[first : last + 1] - indptr[first],
                some["item"].astype(np.int64),
                np.ascontiguousarray(some["ts"]),
                np.ascontiguousarray(some["weight"]),
                recency,
                window_micros,
            )
            day, latest_ts = ts // _DAY_MICROS, latest_ts.copy()
            kept, starts = largest_terms(user, one, other, day, value, half_life_days)
            if len(kept):
                latest_ts = np.maximum.reduceat(latest_ts[kept], starts)
                best = kept[starts]
                one, other, day = one[best], other[best], day[best]
                if not half_life_days:
                    day = latest_ts // _DAY_MICROS  # of no use, and rows of fewer keys
                # Of an item itself no time is asked for.
                latest_ts = np.where(one == other, day * _DAY_MICROS, latest_ts)
                units = np.rint(value[best] * UNITS).astype(np.int64)
                signs = sign[first + user[best]]
                arrays = [one, other, day.astype(np.int32), latest_ts, units * signs, signs]
                yield pa.record_batch([pa.array(a) for a in arrays], names_of(_COUNTS_SCHEMA))
            first = last


def largest_terms(
    user: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    day: np.ndarray,
    value: np.ndarray,
    half_life_days: float,
) -> tuple[np.ndarray, np.ndarray]:
    """An order of terms by (user, one, other), and where each group starts: with its largest term.

    Terms are compared as decayed to the last day of their own user, so that which one is the
    largest does not depend on what day it is; of equal ones the larger value, then the later day.

    Args:
        user, one, other, day, value: [n] each, user by user.
        half_life_days: 0: no decay.
    """
    decayed = value
    if half_life_days and len(user):
        starts = np.flatnonzero(np.diff(user, prepend=-1))
        last = np.repeat(np.maximum.reduceat(day, starts), np.diff(starts, append=len(user)))
        decayed = value * 2.0 ** ((day - last) / half_life_days)
    order = np.lexsort((-day, -value, -decayed, other, one, user))
    keys = (user[order], one[order], other[order])
    new = np.zeros(len(order), bool)
    for key in keys:
        new |= np.diff(key, prepend=-1) != 0
    return order, np.flatnonzero(new)


def _skew(lists: DataFrame) -> dict[str, Any]:
    from pyspark.sql import functions as F

    row = lists.agg(
        F.count("*").alias("users"),
        F.count_if(F.col("events") > F.col("kept_events")).alias("users_capped"),
        F.max("events").alias("largest"),
        F.sum("events").alias("events"),
        F.sum("kept_events").alias("kept"),
    ).first()
    assert row is not None
    return {
        "users": row["users"],
        "users_capped": row["users_capped"],
        "items_capped": 0,
        "most_events_of_a_user": row["largest"] or 0,
        "share_of_events_lost_to_user_cap": 1 - row["kept"] / row["events"],
    }
