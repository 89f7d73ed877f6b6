"""Which events become samples: observed or sampled negatives, ids, counts.

Times are microseconds (bigint) until ``finished`` converts them to seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qarm.config import Samples
from qarm.errors import InputError, RowsLostError
from qarm.ingest.parts import with_part
from qarm.ranking import negatives
from qarm.ranking.caps import Caps, user_bucket
from qarm.ranking.rates import MICROSECONDS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.lake.caching import Keeper

SAMPLED_PARTS = ("train", "valid", "test")
"""Parts whose events become samples; the mine part is used for mining only."""

TOTALS = ("positives_before", "items_before")
"""Columns of events and samples with sampled negatives: what the log had seen before them."""

Mode = Literal["observed", "sampled"]


def prepare_events(
    interactions: DataFrame, event_splits: DataFrame, labels: Sequence[str]
) -> DataFrame:
    """Events with their part.

    Args:
        interactions: table interactions.
        event_splits: table event_splits.
        labels: names of the labels.

    Returns:
        (user_idx, item_idx, event, ts in microseconds, positive, part, label_<name> ...).
    """
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
    """``observed`` or ``sampled``, from the setting ``samples.negatives`` and the log.

    Raises:
        InputError: observed negatives are configured, but every event is positive.
    """
    if wanted == "sampled":
        return "sampled"
    has_negatives = not events.where("NOT positive").isEmpty()
    if wanted == "observed" and not has_negatives:
        raise InputError(
            'samples.negatives = "observed", but every event of the log is positive; set it to '
            '"sampled" or "auto", or define in log.labels what is positive'
        )
    return "observed" if has_negatives else "sampled"


def mark(events: DataFrame, mode: Mode, caps: Caps, seed: int) -> DataFrame:
    """Events of the sampled parts with ``dropped``: why an event is not a sample; null if it is.

    Args:
        events: see ``prepare_events``; with ``TOTALS`` if negatives are sampled.
        mode: kind of negatives.
        caps: where the configuration's caps cut.
        seed: of the users kept.
    """
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
        # No item was seen before the first positives of the log, so that they have no negatives.
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
    keep: Keeper,
) -> tuple[DataFrame, int]:
    """``samples`` (all positive) and their negatives, with all labels 0; and how many were drawn.

    Args:
        samples: see ``observed_samples``.
        events: all events, with ``TOTALS``; their positives form the baskets.
        numbers: (item_idx, item_number), see ``negatives.draw_numbers``.
        labels: names of the labels.
        config: section samples.
        keep: persists what was drawn, which is counted before it is used.
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
    drawn = keep(
        negatives.draw_numbers(
            positives,
            numbers,
            per_positive=config.negatives_per_positive,
            seed=config.seed,
            keep=("part", *TOTALS),
        )
    )
    row = drawn.agg(F.sum(F.size(negatives.DRAWN))).first()
    count = int(row[0] or 0) if row is not None else 0
    zero = F.lit(0.0).cast("float")
    filled = negatives.with_items(drawn, numbers).withColumns(
        {"negative_kind": F.lit("sampled"), **{f"label_{name}": zero for name in labels}}
    )
    return samples.unionByName(filled), count


def with_sample_id(samples: DataFrame) -> DataFrame:
    """``samples`` with sample_id, a hash of the impression's key; drops its helper columns."""
    from pyspark.sql import functions as F

    key = ("user_idx", "item_idx", "ts", "event", "positive_item_idx", "slot")
    return samples.withColumn("sample_id", F.xxhash64(*key)).drop(
        "event", "positive_item_idx", "slot"
    )


def finished(samples: DataFrame) -> DataFrame:
    """``samples`` with times in seconds and weight 1."""
    from pyspark.sql import functions as F

    seconds = F.floor(F.col("ts") / MICROSECONDS)
    return samples.withColumns({"ts": seconds, "weight": F.lit(1.0).cast("float")})


def training_share(
    events: DataFrame, train_parts: Sequence[str], mode: Mode, negatives_per_positive: int
) -> float:
    """Share of positives among the training part's samples.

    Args:
        events: see ``prepare_events``.
        train_parts: parts that count as training.
        mode: with sampled negatives the share follows from their number alone.
        negatives_per_positive: sampled negatives per positive.

    Raises:
        InputError: the training part has no positive event.
    """
    from pyspark.sql import functions as F

    row = (
        events.where(F.col("part").isin(*train_parts))
        .agg(F.count("*").alias("events"), F.count_if("positive").alias("positives"))
        .first()
    )
    if row is None or not row["positives"]:
        seen = 0 if row is None else row["events"]
        raise InputError(
            f"the train part has {seen} events and none of them is positive; a ranker cannot be "
            "trained. Check [split] and log.labels"
        )
    if mode == "sampled":
        return 1 / (1 + negatives_per_positive)
    return float(row["positives"] / row["events"])


@dataclass(frozen=True)
class SampleCounts:
    """Rows of a table of samples."""

    parts: dict[str, dict[str, int]]
    """Part -> "rows" and the positive rows of each label."""
    negative_kinds: dict[str, int]
    """negative_kind -> rows."""

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(part["rows"] for part in self.parts.values())


def count_samples(samples: DataFrame, labels: Sequence[str]) -> SampleCounts:
    """Rows by part and label, and by kind of negative.

    Args:
        samples: ranking_samples.
        labels: names of the labels.

    Raises:
        RowsLostError: two samples share an id.
    """
    from pyspark.sql import functions as F

    sums = [F.sum(f"label_{name}").cast("bigint").alias(name) for name in labels]
    grouped = samples.groupBy("part", "negative_kind").agg(F.count("*").alias("rows"), *sums)
    parts: dict[str, dict[str, int]] = {}
    kinds: dict[str, int] = {}
    for row in grouped.collect():
        part = parts.setdefault(row["part"], dict.fromkeys(["rows", *labels], 0))
        for name in part:
            part[name] += row[name]
        kinds[row["negative_kind"]] = kinds.get(row["negative_kind"], 0) + row["rows"]
    counts = SampleCounts(parts, kinds)
    distinct = samples.select("sample_id").distinct().count()
    if distinct != counts.rows:
        raise RowsLostError(
            f"{counts.rows} samples have {distinct} distinct sample_id; events must be unique by "
            "(user_idx, item_idx, event, ts), and so must rows of event_splits"
        )
    return counts
