"""Sampled negatives: items that the log had seen before the positive, drawn uniformly.

Items are numbered in the order of their first event, so that the items seen before a moment are the
numbers below a count, and a draw is a hash modulo that count. No list of items is sent to the
tasks, and the same seed draws the same items on any cluster. "Before" means in an earlier second.

Positives of the same user and time (the basket) are excluded. Positives of the user at other times
are not: otherwise an item in the history could never be a negative, and the history would reveal
the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qarm.ranking.rates import first_seen

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

DRAWN = "drawn"
"""Column with the numbers of the items that were drawn for a positive."""
DRAWS_PER_NEGATIVE = 4
"""Draws per negative; those that hit the basket or an earlier draw are skipped."""


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


def with_items(drawn: DataFrame, numbers: DataFrame) -> DataFrame:
    """Rows of ``draw_numbers``, one for each number, with its slot and item in place of it."""
    from pyspark.sql import functions as F

    others = [name for name in drawn.columns if name != DRAWN]
    each = drawn.select(*others, F.posexplode(DRAWN).alias("slot", "item_number"))
    return each.join(numbers, "item_number").drop("item_number")


def draw_numbers(
    positives: DataFrame,
    numbers: DataFrame,
    *,
    per_positive: int,
    seed: int,
    keep: Sequence[str] = (),
) -> DataFrame:
    """Numbers of the negatives of each wanted positive.

    Draws that hit the basket, or an item drawn before for the same positive, are skipped. A
    positive gets fewer negatives if ``DRAWS_PER_NEGATIVE`` x ``per_positive`` draws do not give
    enough, as at the start of a log or where the basket holds most items.

    Args:
        positives: all positives (user_idx, item_idx, event, ts in microseconds, wanted,
            items_before, ``keep``). Those with ``wanted`` false get no negatives but belong to the
            basket; the others get items whose number is below items_before.
        numbers: (item_idx, item_number) of ``numbered_items`` here or in ``order_only``.
        per_positive: negatives per positive.
        seed: seed of the draws.
        keep: columns of the positive to copy to its negatives.

    Returns:
        (user_idx, ts, positive_item_idx, event, ``keep``, ``DRAWN``: at most per_positive numbers).
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
    return targets.select(
        "user_idx",
        "ts",
        F.col("item_idx").alias("positive_item_idx"),
        "event",
        *keep,
        good.alias(DRAWN),
    )
