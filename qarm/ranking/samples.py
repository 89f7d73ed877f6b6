"""From events to ranking samples: which events are impressions, negatives, features, files.

Pure DataFrame -> DataFrame functions; ``samples_stage`` puts them in order. Times are microseconds
(bigint) until ``finished`` writes them in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qarm.config import Samples
from qarm.errors import InputError
from qarm.ingest.parts import with_part
from qarm.ranking import history, negatives, order_only, rates

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SAMPLED_PARTS = ("train", "valid", "test")
"""Parts whose events become samples; the mine part is for mining alone."""

TOTALS = ("positives_before", "items_before")
"""What the whole log had seen by then; on events and samples where negatives are drawn."""

_DAY = 86_400 * rates.MICROSECONDS
_HASH_BUCKETS = 65_536

Mode = Literal["observed", "sampled"]


@dataclass(frozen=True)
class Caps:
    """Where the caps of the configuration cut.

    Attributes:
        train_from: first instant (microseconds) of the train part that is kept; None: all.
        user_buckets: part -> users with a smaller hash bucket are kept; parts without a cap lack.
    """

    train_from: int | None
    user_buckets: dict[str, int]


def prepare_events(
    interactions: DataFrame, event_splits: DataFrame, labels: Sequence[str]
) -> DataFrame:
    """Events with their part: (user_idx, item_idx, event, ts in microseconds, positive, part,
    label_<name> ...)."""
    from pyspark.sql import functions as F

    zero = F.lit(0.0).cast("float")
    return with_part(interactions, event_splits).select(
        "user_idx",
        "item_idx",
        "event",
        F.unix_micros("ts").alias("ts"),
        "positive",
        "part",
        *(F.coalesce(F.col("labels")[name], zero).alias(f"label_{name}") for name in labels),
    )


def choose_mode(wanted: str, events: DataFrame) -> Mode:
    """What ``samples.negatives`` means for this log.

    Raises:
        InputError: observed negatives are asked for, and every event is positive.
    """
    if wanted == "sampled":
        return "sampled"
    has_negatives = not events.where("NOT positive").isEmpty()
    if wanted == "observed" and not has_negatives:
        raise InputError(
            'samples.negatives = "observed", but every event of the log is positive; set it to '
            '"sampled" or "auto", or state in log.labels what is positive'
        )
    return "observed" if has_negatives else "sampled"


def find_caps(events: DataFrame, config: Samples, has_times: bool = True) -> Caps:
    """Where to cut so that no part has more positives than the configuration allows.

    Train keeps its latest seconds, the other parts (and train, where there are no times) the users
    with the smallest hash: what shares a second, or a user, is kept or cut together. Only sums a
    day, a second of one day, and a hash bucket come to the driver. At least one second, and one
    bucket, is kept.
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
            seconds = _sizes(in_day, F.floor(F.col("ts") / rates.MICROSECONDS))[::-1]
            more, _ = _fitting(seconds, left)
            more = max(more, 1 if kept == 0 else 0)
            train_from = seconds[more - 1][0] * rates.MICROSECONDS if more else (day + 1) * _DAY
    most = dict.fromkeys(("valid", "test"), config.eval_positives)
    if not has_times:
        most["train"] = config.train_positives
    user_buckets = {}
    for part in (part for part, wanted in most.items() if wanted):
        buckets = _sizes(positives.where(F.col("part") == part), user_bucket(config.seed))
        kept, _ = _fitting(buckets, most[part])
        if kept < len(buckets):
            user_buckets[part] = buckets[max(kept, 1) - 1][0] + 1
    return Caps(train_from, user_buckets)


def user_bucket(seed: int) -> Column:
    """Hash bucket of the user, 0 to 65,535."""
    from pyspark.sql import functions as F

    return F.pmod(F.xxhash64(F.lit(seed), F.lit("eval"), "user_idx"), F.lit(_HASH_BUCKETS))


def _sizes(rows: DataFrame, value: Column) -> list[tuple[int, int]]:
    """(value, rows), by value; for values of which there are few."""
    counts = rows.groupBy(value.cast("bigint").alias("value")).count().orderBy("value")
    return [(row["value"], row["count"]) for row in counts.collect()]


def _fitting(sizes: Sequence[tuple[int, int]], most: int) -> tuple[int, int]:
    """How many of the first sizes add up to at most ``most``, and what is left of it."""
    for place, (_, size) in enumerate(sizes):
        if size > most:
            return place, most
        most -= size
    return len(sizes), most


def mark(events: DataFrame, mode: Mode, caps: Caps, seed: int) -> DataFrame:
    """Events of the sampled parts with ``dropped``: why the event is no sample; null: it is one."""
    from pyspark.sql import functions as F

    none = F.lit(None).cast("string")
    reason = none
    if caps.train_from is not None:
        old = (F.col("part") == "train") & (F.col("ts") < caps.train_from)
        reason = F.when(old, "over_train_cap").otherwise(reason)
    for part, limit in caps.user_buckets.items():
        beyond = (F.col("part") == part) & (user_bucket(seed) >= limit)
        cap = "over_train_cap" if part == "train" else "over_eval_cap"
        reason = F.when(beyond, cap).otherwise(reason)
    if mode == "sampled":
        reason = F.when(~F.col("positive"), "not_positive").otherwise(reason)
        # Nothing could stand against the first positives of the log.
        reason = F.when(F.col("items_before") == 0, "nothing_seen_before").otherwise(reason)
    return events.where(F.col("part").isin(*SAMPLED_PARTS)).withColumn("dropped", reason)


def observed_samples(marked: DataFrame) -> DataFrame:
    """The marked events that are samples, with negative_kind "none" or "observed" and slot -1."""
    from pyspark.sql import functions as F

    kind = F.when(F.col("positive"), "none").otherwise("observed")
    return (
        marked.where("dropped IS NULL")
        .withColumns(
            {
                "negative_kind": kind,
                "slot": F.lit(-1),
                "positive_item_idx": F.lit(-1).cast("bigint"),
            }
        )
        .drop("dropped", "positive")
    )


def with_sampled_negatives(
    samples: DataFrame,
    events: DataFrame,
    numbers: DataFrame,
    labels: Sequence[str],
    config: Samples,
) -> DataFrame:
    """``samples`` (all positive) and their negatives, with all labels 0.

    Args:
        events: all events, with positives_before and items_before: what a negative must not be.
        numbers: (item_idx, item_number), see ``negatives.draw``.
    """
    from pyspark.sql import functions as F

    key = ["user_idx", "item_idx", "event", "ts"]
    wanted = samples.select(*key, F.lit(True).alias("wanted"))
    positives = (
        events.where("positive")
        .select(*key, "part", *TOTALS)
        .join(wanted, key, "left")
        .withColumn("wanted", F.coalesce("wanted", F.lit(False)))
    )
    drawn = negatives.draw(
        positives,
        numbers,
        per_positive=config.negatives_per_positive,
        seed=config.seed,
        keep=("part", *TOTALS),
    )
    zero = F.lit(0.0).cast("float")
    filled = drawn.withColumns(
        {"negative_kind": F.lit("sampled"), **{f"label_{name}": zero for name in labels}}
    )
    return samples.unionByName(filled)


def with_features(
    samples: DataFrame,
    events: DataFrame,
    *,
    train_parts: Sequence[str],
    share: float,
    mode: Mode,
    has_times: bool,
    config: Samples,
) -> DataFrame:
    """Rates, counts, repeat mark, training events and history (see ``rates`` and ``history``).

    Args:
        samples: (sample_id, user_idx, item_idx, ts, ...), with ``TOTALS`` where negatives are
            drawn; these are not kept.
        events: ``prepare_events``, all parts.
        train_parts: parts that count as training in item_train_events.
        share: the training part's share of positives.
        has_times: whether the times of different users can be compared (see ``order_only``).
    """
    from pyspark.sql import functions as F

    known = events.groupBy("item_idx").agg(
        F.count_if(F.col("part").isin(*train_parts)).alias("item_train_events")
    )
    keys = {"pair": ["user_idx", "item_idx"], "user": ["user_idx"]}
    if has_times:
        counted = rates.counts_before(events, samples, {"item": ["item_idx"], **keys})
    else:
        counted = rates.counts_before(events, samples, keys)
        counted = order_only.with_item_counts(counted, events, train_parts)
    rated = rates.with_rates(
        counted,
        share=share,
        prior=config.rate_prior,
        negatives_per_positive=config.negatives_per_positive if mode == "sampled" else None,
    )
    scalar = (
        rated.join(known, "item_idx")
        .withColumn("is_repeat", F.col("pair_positives") > 0)
        .select(
            *(name for name in samples.columns if name not in TOTALS),
            *("is_repeat", "item_train_events"),
            *("user_count", "user_rate", "item_count", "item_rate"),
        )
    )
    return history.with_history(events.where("positive"), scalar, config.history_length)


def with_sample_id(samples: DataFrame) -> DataFrame:
    """``samples`` with sample_id, a hash of the impression's key, in place of the key's helpers."""
    from pyspark.sql import functions as F

    key = ("user_idx", "item_idx", "ts", "event", "positive_item_idx", "slot")
    return samples.withColumn("sample_id", F.xxhash64(*key)).drop(
        "event", "positive_item_idx", "slot"
    )


def finished(samples: DataFrame) -> DataFrame:
    """Samples with times in seconds, and weights."""
    from pyspark.sql import functions as F

    seconds = F.floor(F.col("ts") / rates.MICROSECONDS)
    return samples.withColumns({"ts": seconds, "weight": F.lit(1.0).cast("float")})
