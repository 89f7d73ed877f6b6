"""Features of a sample as of its time: counts, rates, repeats and history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qarm.config import Samples
from qarm.ranking import history, order_only, rates
from qarm.ranking.impressions import TOTALS, Mode

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


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
    """``samples`` with rates, counts, is_repeat, item_train_events and history.

    Args:
        samples: (sample_id, user_idx, item_idx, ts, ...), with ``TOTALS`` if negatives are sampled;
            these are dropped.
        events: ``impressions.prepare_events``, all parts.
        train_parts: parts that count as training in item_train_events.
        share: the training part's share of positives.
        mode: kind of negatives.
        has_times: whether times of different users can be compared (see ``order_only``).
        config: section samples.
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
