"""Incremental ItemCF by day: counts of days add up, so that a nightly run counts one day.

A co-occurrence belongs to the day of its later event, and caps hold per user and day. So the counts
of a day depend on its own events and on those of the ``window_days`` before it, and the fingerprint
of a day covers these days. The result equals that of counting all days.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.lake.counting import count_rows
from qarm.pairs import scratch
from qarm.pairs.lists import bounds_of, names_of
from qarm.pairs.mined import Keep
from qarm.pairs.nightly import Miner, Night, Recounted, Scratch, update
from qarm.pairs.topk import exact_sum, top_k

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from qarm.config.pairs import ItemCF

MINER = Miner(name="itemcf", key=("day",), tables=(scratch.ITEMCF_PAIRS, scratch.ITEMCF_ITEMS))

_COUNTS_SCHEMA = "day int, trigger bigint, target bigint, units bigint, last_ts bigint"
_DAY_MICROS = 86_400_000_000
_EPOCH = date(1970, 1, 1)


def describe_days(events: DataFrame) -> dict[date, str]:
    """Hash of the events (user_idx, item_idx, ts, weight) of each day that has any."""
    from pyspark.sql import functions as F

    mark = F.xxhash64("user_idx", "item_idx", F.unix_micros("ts"), F.col("weight").cast("double"))
    rows = (
        events.groupBy(F.to_date("ts").alias("day"))
        .agg(
            F.count("*").alias("events"),
            F.sum(mark.cast("decimal(20,0)")).cast("string").alias("hashes"),
        )
        .collect()  # one row per day
    )
    return {row["day"]: f"{row['events']} {row['hashes']}" for row in rows}


def fingerprint_days(days: dict[date, str], window_days: float, mark: str) -> dict[date, int]:
    """A 64-bit hash of each day and of the days before it that its co-occurrences reach into.

    Args:
        days: as of ``describe_days``.
        window_days: largest time between two events that co-occur.
        mark: hash of the settings and the code.
    """
    found = {}
    for day in days:
        reached = [day - timedelta(days=back) for back in range(math.ceil(window_days) + 1)]
        text = "\n".join([mark, *(f"{each} {days[each]}" for each in reached if each in days)])
        digest = hashlib.sha256(text.encode()).digest()
        found[day] = int.from_bytes(digest[:8], "big", signed=True)
    return found


def count_days(
    events: DataFrame, config: ItemCF, days: Sequence[date]
) -> tuple[DataFrame, DataFrame]:
    """Rows of ``scratch.ITEMCF_PAIRS`` and of ``scratch.ITEMCF_ITEMS`` for ``days``.

    Args:
        events: user_idx, item_idx, ts, seq, weight; all of them, or those of ``days`` and of the
            window before them.
        config: see qarm.config.pairs.ItemCF.
        days: the days to count.
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
    counted = F.col("day").isin(sorted(wanted))
    listed = (
        capped.repartition("user_idx")
        .sortWithinPartitions("user_idx", "ts", "seq", F.desc("item_idx"), F.desc("weight"))
        .select("user_idx", "item_idx", "ts", "weight", "day", counted.alias("counted"))
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
    weights = capped.where(counted).groupBy("day", "item_idx")
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

    names = names_of(_COUNTS_SCHEMA)
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
) -> Iterator[tuple[NDArray[Any], dict[str, NDArray[Any]]]]:
    """Columns of batches sorted by ``key``, cut so that no group is split.

    Yields bounds int64[groups + 1] and the columns. Only the last group of a batch is carried over,
    so groups must be capped where they could be large.
    """
    carried: dict[str, NDArray[Any]] = {}
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
    pair_days: DataFrame, item_days: DataFrame, config: ItemCF, keep: Keep
) -> tuple[DataFrame, dict[str, int]]:
    """Days added up, normalised and cut: pairs as of ``itemcf``, and their tally.

    Args:
        pair_days: rows of ``scratch.ITEMCF_PAIRS``.
        item_days: rows of ``scratch.ITEMCF_ITEMS``.
        config: see qarm.config.pairs.ItemCF.
        keep: keeps frames that are read more than once.
    """
    from pyspark.sql import functions as F

    from qarm.kernels.cooccurrence_days import UNITS

    weights = keep(item_days.groupBy("item_idx").agg(exact_sum("weight").alias("w")))
    counts = pair_days.groupBy("trigger", "target").agg(
        exact_sum(F.col("units") / F.lit(UNITS)).alias("weight"),
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
    root = F.sqrt(F.col("trigger_w") * F.col("target_w"))
    score = F.when(root > 0, F.col("weight") / root).otherwise(0.0).alias("score")
    scored = keep(both.select("trigger", "target", score, "support", "weight", "last_ts"))
    supported = scored.where(F.col("support") >= config.min_support)
    order = [F.desc("score"), F.asc("target")]
    kept = keep(top_k(supported, ["trigger"], order, config.top_k))
    rows = count_rows({"scored": scored, "supported": supported, "kept": kept})
    return kept, {
        "scored": rows["scored"],
        "below_min_support": rows["scored"] - rows["supported"],
        "beyond_top_k": rows["supported"] - rows["kept"],
    }


def count_changed(where: Scratch, events: DataFrame, config: ItemCF, keep: Keep) -> Night:
    """Bring the tables of ItemCF counts up to date.

    Args:
        where: the scratch tables.
        events: all mined events, at least one.
        config: see qarm.config.pairs.ItemCF.
        keep: keeps frames that are read more than once.
    """
    # Counts do not depend on what scores them.
    settings = config.model_dump(mode="json", exclude={"top_k", "min_support"})
    found = fingerprint_days(
        describe_days(events), config.window_days, where.mark(settings=settings)
    )
    now = events.sparkSession.createDataFrame(list(found.items()), "day date, fingerprint bigint")

    def recount(changed: DataFrame) -> Recounted:
        days = [row["day"] for row in changed.collect()]  # one row per day
        return Recounted(count_days(events, config, days), {})

    return update(where, MINER, now, recount, keep)
