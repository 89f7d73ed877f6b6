"""Caps on the number of positives of each part: which events and users to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qarm.config import Samples
from qarm.ranking.rates import MICROSECONDS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_DAY = 86_400 * MICROSECONDS
_HASH_BUCKETS = 65_536


@dataclass(frozen=True)
class Caps:
    """Which events the caps keep.

    Attributes:
        train_from: first time (microseconds) of the train part that is kept; None: all.
        user_buckets: part -> users with a smaller hash bucket are kept; no entry: all users.
    """

    train_from: int | None
    user_buckets: dict[str, int]


def find_caps(events: DataFrame, config: Samples, has_times: bool = True) -> Caps:
    """Caps so that no part has more positives than the configuration allows.

    Train keeps its latest seconds; the other parts, and train in a log without times, keep the
    users with the smallest hash. Events of one second, or of one user, are kept or dropped
    together. At least one second, and one hash bucket, is kept. Only counts per day, per second of
    one day and per hash bucket are collected on the driver.

    Args:
        events: see ``impressions.prepare_events``.
        config: section samples.
        has_times: whether the log has times; see ``order_only``.
    """
    from pyspark.sql import functions as F

    positives = events.where("positive")
    train_from = None
    if config.train_positives and has_times:
        train = positives.where("part = 'train'")
        days = _sizes(train, F.floor(F.col("ts") / _DAY))[::-1]
        kept, left = _fitting(days, config.train_positives)
        if kept < len(days):
            day = days[kept][0]
            in_day = train.where(F.floor(F.col("ts") / _DAY) == day)
            seconds = _sizes(in_day, F.floor(F.col("ts") / MICROSECONDS))[::-1]
            more, _ = _fitting(seconds, left)
            more = max(more, 1 if kept == 0 else 0)
            train_from = seconds[more - 1][0] * MICROSECONDS if more else (day + 1) * _DAY
    limits = dict.fromkeys(("valid", "test"), config.eval_positives)
    if not has_times:
        limits["train"] = config.train_positives
    user_buckets = {}
    for part in (part for part, limit in limits.items() if limit):
        buckets = _sizes(positives.where(F.col("part") == part), user_bucket(config.seed))
        kept, _ = _fitting(buckets, limits[part])
        if kept < len(buckets):
            user_buckets[part] = buckets[max(kept, 1) - 1][0] + 1
    return Caps(train_from, user_buckets)


def user_bucket(seed: int) -> Column:
    """Hash bucket of the user, 0 to 65,535."""
    from pyspark.sql import functions as F

    return F.pmod(F.xxhash64(F.lit(seed), F.lit("eval"), "user_idx"), F.lit(_HASH_BUCKETS))


def _sizes(rows: DataFrame, value: Column) -> list[tuple[int, int]]:
    """(value, rows) in the order of ``value``, which must have few distinct values."""
    counts = rows.groupBy(value.cast("bigint").alias("value")).count().orderBy("value")
    return [(row["value"], row["count"]) for row in counts.collect()]


def _fitting(sizes: Sequence[tuple[int, int]], limit: int) -> tuple[int, int]:
    """Number of leading sizes whose sum is at most ``limit``, and the rest of ``limit``."""
    for place, (_, size) in enumerate(sizes):
        if size > limit:
            return place, limit
        limit -= size
    return len(sizes), limit
