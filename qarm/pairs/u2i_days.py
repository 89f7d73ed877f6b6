"""Incremental User2Item by user and day: a nightly run finds the triggers of new targets only.

A target's trigger depends on what its user did before, so the fingerprint of a user's day covers
the events of that day and of all earlier ones: a new day adds its targets, a late event moves the
targets after it, an erased user leaves. The result equals that of all events at the same ID
vectors, to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qarm.pairs import scratch
from qarm.pairs.mined import Keep, Mined
from qarm.pairs.nightly import Miner, Night, Recounted, Scratch, update
from qarm.pairs.user2item import mine_user2item, user_pairs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config.pairs import User2Item

MINER = Miner(name="u2i", key=("user_idx", "day"), tables=(scratch.U2I,))


class Changed(NamedTuple):
    """What a run found, and what it could leave alone."""

    night: Night
    kept_targets: int
    """Target events of unchanged keys that have a trigger."""
    unchanged_targets: int
    """Target events of unchanged keys."""


def describe_user_days(events: DataFrame, mark: str) -> DataFrame:
    """(user_idx, day, events, fingerprint of the user's events up to that day).

    Args:
        events: user_idx, item_idx, ts, weight.
        mark: hash of the settings, the code and the ID vectors.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    event = F.xxhash64("user_idx", "item_idx", F.unix_micros("ts"), F.col("weight").cast("double"))
    days = events.groupBy("user_idx", F.to_date("ts").alias("day")).agg(
        F.count("*").alias("events"), F.sum(event.cast("decimal(20,0)")).alias("hashes")
    )
    until = Window.partitionBy("user_idx").orderBy("day").rowsBetween(Window.unboundedPreceding, 0)
    sums = (F.sum(name).over(until).cast("string") for name in ("events", "hashes"))
    return days.select(
        "user_idx", "day", "events", F.xxhash64(F.lit(mark), *sums).alias("fingerprint")
    )


def mine_changed(
    where: Scratch,
    events: DataFrame,
    vectors: DataFrame,
    config: User2Item,
    keep: Keep,
) -> Changed:
    """Bring the User2Item table up to date.

    Args:
        where: the scratch tables.
        events: all mined events: user_idx, item_idx, ts, weight.
        vectors: item_idx, vector.
        config: see qarm.config.pairs.User2Item.
        keep: keeps frames that are read more than once.
    """
    from pyspark.sql import functions as F

    settings = config.model_dump(mode="json")
    now = keep(describe_user_days(events, where.mark(settings=settings, vectors=where.vectors)))
    day = F.to_date("ts").alias("day")

    def recount(changed: DataFrame) -> Recounted:
        targets = changed.withColumn("is_target", F.lit(True))
        of_users = events.join(changed.select("user_idx").distinct(), "user_idx", "left_semi")
        marked = of_users.withColumn("day", day).join(targets, list(MINER.key), "left")
        marked = marked.withColumn("is_target", F.coalesce("is_target", F.lit(False)))
        mined = mine_user2item(marked, vectors, config.window, config.min_similarity)
        mined = Mined(rows=keep(mined.rows), names=mined.names)
        tally = {**mined.tally(), "pairs": mined.pairs.count()}
        return Recounted((user_pairs(mined.pairs.withColumn("day", day), "day"),), tally)

    night = update(where, MINER, now, recount, keep)
    unchanged = now.join(night.changed, list(MINER.key), "left_anti")
    return Changed(night, _sum(night.kept[0], "events"), _sum(unchanged, "events"))


def _sum(rows: DataFrame, column: str) -> int:
    from pyspark.sql import functions as F

    row: Any = rows.agg(F.sum(column)).first()
    return int(row[0] or 0)
