"""Sampled negatives: items already seen by then, whatever the user bought before or later.

Items are numbered in the order in which the log first saw them, so that those seen before a moment
are the numbers below a count, and a draw is a hash modulo that count: no list of items travels to
the tasks, and the same seed draws the same items on any cluster. "Before" is an earlier second.

Only positives of the same user and time are no negatives. Leaving out what the user bought at
other times would make "is in the history" the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qarm.ranking.rates import first_seen

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

DRAWS_PER_NEGATIVE = 4
"""Draws for each wanted negative; those that hit a positive or an earlier draw are passed over."""


def numbered_items(events: DataFrame, totals: DataFrame) -> DataFrame:
    """(item_idx, item_number): 0-based, in the order of the second first seen, then of item_idx.

    Args:
        events: (item_idx, ts in microseconds).
        totals: ``rates.totals_before`` of the same events.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    place = F.row_number().over(Window.partitionBy("second").orderBy("item_idx")) - 1
    return (
        first_seen(events)
        .join(totals.select("second", "items_before"), "second")
        .select("item_idx", (F.col("items_before") + place).alias("item_number"))
    )


def draw(
    positives: DataFrame,
    numbers: DataFrame,
    *,
    per_positive: int,
    seed: int,
    keep: Sequence[str] = (),
) -> DataFrame:
    """Negatives of the wanted positives.

    Draws that hit an item of the basket, or one drawn before for the same positive, are passed
    over. After ``DRAWS_PER_NEGATIVE`` times as many draws as negatives the rest is not made up
    (a young log, or a basket of nearly all items).

    Args:
        positives: all positives (user_idx, item_idx, event, ts in microseconds, wanted,
            items_before, ``keep``). Those with ``wanted`` false get none, and are no negatives
            either; the others get items whose number is below items_before.
        numbers: (item_idx, item_number): ``numbered_items``, or that of ``order_only``.
        per_positive: negatives a positive.
        seed: seed of the draws.
        keep: columns of the positive that its negatives take over.

    Returns:
        (user_idx, ts, positive_item_idx, event, slot, item_idx, ``keep``); slot < per_positive.
    """
    from pyspark.sql import functions as F

    target = list(dict.fromkeys(["item_idx", "event", "items_before", *keep]))
    basket = (
        positives.join(numbers, "item_idx")
        .groupBy("user_idx", "ts")
        .agg(
            F.collect_set("item_number").alias("basket"),
            F.collect_list(F.when(F.col("wanted"), F.struct(*target))).alias("targets"),
        )
    )
    targets = (
        basket.select("user_idx", "ts", "basket", F.explode("targets").alias("target"))
        .select("user_idx", "ts", "basket", "target.*")
        .where("items_before > 0")
    )
    key = [F.lit(seed), F.col("user_idx"), F.col("item_idx"), F.col("event"), F.col("ts")]
    draws = F.transform(
        F.sequence(F.lit(1), F.lit(DRAWS_PER_NEGATIVE * per_positive)),
        lambda k: F.pmod(F.xxhash64(*key, k), F.greatest(F.col("items_before"), F.lit(1))),
    )
    good = F.slice(F.array_except(draws, F.col("basket")), 1, per_positive)
    drawn = targets.select(
        "user_idx",
        "ts",
        F.col("item_idx").alias("positive_item_idx"),
        "event",
        *keep,
        F.posexplode(good).alias("slot", "item_number"),
    )
    return drawn.join(numbers, "item_number").drop("item_number")
