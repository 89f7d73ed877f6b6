"""ItemCF day by day: partial counts that add up, so that a nightly run counts one day.

A co-occurrence belongs to the day of its later event, caps hold for each user and day, and decay is
applied when days are added up. So a day's counts depend on its own events and on those of the
``window_days`` before it, and on nothing else. A run compares a fingerprint of each day's events
with that of the run before and counts anew the days that changed and those that reach into them:
a new day, a late event, an erased user and a backfill are all the same case, and the result is
exactly that of counting everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qarm.pairs.lists import bounds_of
from qarm.pairs.mined import Keep
from qarm.pairs.topk import exact_sum, top_k

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from qarm.config.pairs import ItemCF

_COUNTS_SCHEMA = "day int, trigger bigint, target bigint, units bigint, last_ts bigint"
_DAY_MICROS = 86_400_000_000
_EPOCH = date(1970, 1, 1)


class Days(NamedTuple):
    """What a run has to do."""

    now: dict[date, tuple[int, str]]
    """Days with events that a counted day can reach into: (events, fingerprint)."""
    todo: list[date]
    """Days to count anew."""
    leave: list[date]
    """Days whose counts leave: nothing is left of them, or they are too old."""


def describe_days(events: DataFrame) -> dict[date, tuple[int, str]]:
    """(events, fingerprint) of each day with events: user_idx, item_idx, ts, weight."""
    from pyspark.sql import functions as F

    mark = F.xxhash64("user_idx", "item_idx", F.unix_micros("ts"), F.col("weight").cast("double"))
    rows = (
        events.groupBy(F.to_date("ts").alias("day"))
        .agg(
            F.count("*").alias("events"),
            F.sum(mark.cast("decimal(20,0)")).cast("string").alias("fingerprint"),
        )
        .collect()  # one row a day
    )
    return {row["day"]: (int(row["events"]), str(row["fingerprint"])) for row in rows}


def of_latest_days(events: DataFrame, days: int) -> DataFrame:
    """The events of the latest ``days`` days, up to that of the latest event; 0: all."""
    from pyspark.sql import functions as F

    if not days:
        return events
    day = F.to_date("ts")
    row = events.agg(F.max(day)).first()
    assert row is not None
    return events.where(day > F.lit((row[0] or _EPOCH) - timedelta(days=days)))


def plan_days(
    now: dict[date, tuple[int, str]],
    before: dict[date, tuple[int, str, str]],
    counted_with: str,
    window_days: float,
    history_days: int = 0,
) -> Days:
    """Which days to count anew, and which leave.

    A day that grows too old leaves without touching the others; its events are still there for the
    days that reach into it, so its fingerprint is kept until none does.

    Args:
        now: (events, fingerprint) of all days with events.
        before: (events, fingerprint, counted_with) of the days that were counted.
        counted_with: hash of today's settings and code.
        window_days: how far a day reaches into earlier ones.
        history_days: days counted, up to the latest with events; 0: all.
    """
    reach = math.ceil(window_days)
    first = edge = min([*now, *before], default=_EPOCH)
    if history_days and now:
        first = max(now) - timedelta(days=history_days - 1)
        edge = first - timedelta(days=reach)
    now = {day: facts for day, facts in now.items() if day >= edge}
    kept = {day for day in now if day >= first}
    changed = {day for day, facts in now.items() if before.get(day) != (*facts, counted_with)}
    gone = {day for day in before if day >= edge and day not in now}
    # Back in time: a day that was only reached into counts again.
    before_first = max(before, default=_EPOCH) - timedelta(days=history_days - 1)
    uncounted = {day for day in before if history_days and day < before_first}
    touched = (changed | uncounted) & kept
    for day in changed | gone:
        touched |= {day + timedelta(days=later) for later in range(1, reach + 1)} & kept
    return Days(now, sorted(touched), sorted(set(before) - kept))


def count_days(
    events: DataFrame, config: ItemCF, days: Sequence[date]
) -> tuple[DataFrame, DataFrame]:
    """Rows of itemcf_days and of itemcf_item_days for ``days``.

    Args:
        events: user_idx, item_idx, ts, seq, weight; all of them, or those of ``days`` and of the
            window before.
        config: see qarm.config.ItemCF.
        days: those counted.
    """
    from pyspark.sql import functions as F

    reach = math.ceil(config.window_days)
    wanted = {(day - _EPOCH).days for day in days}
    needed = sorted({day - back for day in wanted for back in range(reach + 1)})
    number = F.floor(F.unix_micros("ts") / F.lit(_DAY_MICROS)).cast("int")
    plain = events.select(
        "user_idx",
        "item_idx",
        F.unix_micros("ts").alias("ts"),
        "seq",
        F.col("weight").cast("double").alias("weight"),
        number.alias("day"),
    ).where(F.col("day").isin(needed))
    order = [F.desc("ts"), F.desc("seq"), F.asc("item_idx"), F.asc("weight")]
    capped = top_k(plain, ["user_idx", "day"], order, config.max_events_per_user)
    listed = (
        capped.repartition("user_idx")
        .sortWithinPartitions("user_idx", "ts", "seq", F.desc("item_idx"), F.desc("weight"))
        .select(
            "user_idx",
            "item_idx",
            "ts",
            "weight",
            "day",
            F.col("day").isin(sorted(wanted)).alias("counted"),
        )
        .mapInArrow(
            partial(
                stream_cooccurrences,
                window_events=config.window_events or config.max_events_per_user * (reach + 1),
                recency=config.recency,
                window_micros=int(config.window_days * _DAY_MICROS),
            ),
            _COUNTS_SCHEMA,
        )
    )
    day = F.date_from_unix_date("day").alias("day")
    pairs = listed.groupBy("day", "trigger", "target").agg(
        F.sum("units").alias("units"),
        F.count("*").alias("events"),
        F.timestamp_micros(F.max("last_ts")).alias("last_ts"),
    )
    weights = capped.where(F.col("day").isin(sorted(wanted))).groupBy("day", "item_idx")
    return (
        pairs.withColumn("day", day),
        weights.agg(exact_sum("weight").alias("weight")).withColumn("day", day),
    )


def stream_cooccurrences(
    batches: Iterable[pa.RecordBatch], window_events: int, recency: float, window_micros: int
) -> Iterator[pa.RecordBatch]:
    """Spark task: events sorted by user and time -> rows of ``_COUNTS_SCHEMA``."""
    import pyarrow as pa

    from qarm.kernels.cooccurrence_days import list_cooccurrences

    names = [column.split()[0] for column in _COUNTS_SCHEMA.split(", ")]
    factors = recency ** np.arange(window_events)
    for indptr, columns in whole_groups(batches, "user_idx"):
        day, trigger, target, units, ts = list_cooccurrences(
            indptr,
            columns["item_idx"],
            columns["ts"],
            columns["weight"],
            columns["day"].astype(np.int64),
            columns["counted"],
            factors,
            window_micros,
        )
        arrays = [day.astype(np.int32), trigger, target, units, ts]
        yield pa.RecordBatch.from_arrays([pa.array(a) for a in arrays], names=names)


def whole_groups(
    batches: Iterable[pa.RecordBatch], key: str
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Columns of batches sorted by ``key``, cut so that no group is torn apart.

    Yields bounds int64[groups + 1] and the columns. Only the last group of a batch is carried over,
    so groups must be capped where they could be large.
    """
    carried: dict[str, np.ndarray] = {}
    for batch in batches:
        columns = {
            name: batch.column(k).to_numpy(zero_copy_only=False)
            for k, name in enumerate(batch.schema.names)
        }
        if not batch.num_rows:
            continue
        if carried:
            columns = {n: np.concatenate([carried[n], c]) for n, c in columns.items()}
        last = int(np.searchsorted(columns[key], columns[key][-1]))
        carried = {n: c[last:] for n, c in columns.items()}
        if last:
            done = {n: c[:last] for n, c in columns.items()}
            yield bounds_of(done[key]), done
    if carried:
        yield bounds_of(carried[key]), carried


def score_days(
    pair_days: DataFrame, item_days: DataFrame, config: ItemCF, last: date, keep: Keep
) -> tuple[DataFrame, dict[str, int]]:
    """Days added up, decayed, normalised and cut: pairs as of ``itemcf``, and their tally.

    Args:
        pair_days: rows of itemcf_days, of the days that count.
        item_days: rows of itemcf_item_days, likewise.
        config: see qarm.config.ItemCF.
        last: the latest day; decay counts from it.
        keep: keeps frames that are read more than once.
    """
    from pyspark.sql import functions as F

    from qarm.kernels.cooccurrence_days import UNITS

    decay = F.lit(1.0)
    if config.half_life_days:
        age = F.datediff(F.col("day"), F.lit(last)) / F.lit(config.half_life_days)
        decay = F.pow(F.lit(2.0), age)
    weights = keep(item_days.groupBy("item_idx").agg(exact_sum(F.col("weight") * decay).alias("w")))
    total = weights.agg(exact_sum("w").alias("total"), F.count("*").alias("items")).first()
    assert total is not None
    counts = pair_days.groupBy("trigger", "target").agg(
        exact_sum(F.col("units") * decay / F.lit(UNITS)).alias("weight"),
        F.sum("events").alias("support"),
        F.max("last_ts").alias("last_ts"),
    )
    one, other = F.col("trigger"), F.col("target")
    back = counts.select(
        other.alias("trigger"), one.alias("target"), "weight", "support", "last_ts"
    )
    both = counts.unionByName(back)
    for side in ("trigger", "target"):
        both = both.join(
            weights.select(F.col("item_idx").alias(side), F.col("w").alias(f"{side}_w")), side
        )
    mean = (total["total"] or 0.0) / max(total["items"], 1)
    numbers = np.array([total["total"] or 0.0, mean, config.bm25_k1, config.bm25_b])
    columns = ["trigger", "target", "support", "weight", "last_ts", "trigger_w", "target_w"]
    scored = keep(
        both.select(*columns).mapInArrow(
            partial(_normalise, normalization=config.normalization, numbers=numbers),
            "trigger bigint, target bigint, score double, support bigint, weight double, "
            "last_ts timestamp",
        )
    )
    supported = scored.where(F.col("support") >= config.min_support)
    order = [F.desc("score"), F.asc("target")]
    kept = keep(top_k(supported, ["trigger"], order, config.top_k))
    everything, enough, left = scored.count(), supported.count(), kept.count()
    return kept, {
        "scored": everything,
        "below_min_support": everything - enough,
        "beyond_top_k": enough - left,
    }


def _normalise(
    batches: Iterable[pa.RecordBatch], normalization: str, numbers: np.ndarray
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    from qarm.kernels.cooccurrence import NORMALIZATIONS, normalise_all

    kind = NORMALIZATIONS.index(normalization)
    names = ["trigger", "target", "score", "support", "weight", "last_ts"]
    for batch in batches:
        c, wi, wj = (batch.column(n).to_numpy() for n in ("weight", "trigger_w", "target_w"))
        scores = pa.array(normalise_all(kind, c, wi, wj, numbers))
        columns = [scores if n == "score" else batch.column(n) for n in names]
        yield pa.RecordBatch.from_arrays(columns, names=names)
