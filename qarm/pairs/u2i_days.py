"""User2Item by user and day: a nightly run finds the triggers of new targets only.

A target's trigger depends on what its user did before, so an event of some day can only move
targets of its own user, of that day and later. A run compares a fingerprint of each user's days
with that of the run before, finds the user's first day that differs, and goes on from there: a new
day adds its targets, a late event moves the targets after it, an erased user leaves. The result
equals that of all events at the same ID vectors, to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qarm.lake.latest import latest, publish_again
from qarm.pairs.mined import Keep, Mined
from qarm.pairs.user2item import mine_user2item, user_pairs
from schemas import u2i_counted, u2i_days

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config.pairs import User2Item
    from qarm.pipeline.context import Context


class Found(NamedTuple):
    """What a run found, and what it could leave alone."""

    mined: Mined
    """The targets looked at."""
    kept_targets: int
    """Target events with a trigger that was known already."""
    unchanged_targets: int
    """Target events that were not looked at: those, and those found to have no trigger before."""
    users: int
    """Users with a day that differs."""


def describe_user_days(events: DataFrame, counted_with: str) -> DataFrame:
    """Rows of u2i_counted for ``events``: user_idx, item_idx, ts, weight."""
    from pyspark.sql import functions as F

    mark = F.xxhash64("user_idx", "item_idx", F.unix_micros("ts"), F.col("weight").cast("double"))
    return (
        events.groupBy("user_idx", F.to_date("ts").alias("day"))
        .agg(
            F.count("*").alias("events"),
            F.sum(mark.cast("decimal(20,0)")).cast("string").alias("fingerprint"),
        )
        .withColumn("counted_with", F.lit(counted_with))
    )


def first_changes(now: DataFrame, before: DataFrame) -> DataFrame:
    """(user_idx, first_day): each user's earliest day that differs between two u2i_counted."""
    from pyspark.sql import functions as F

    there = before.withColumnRenamed("events", "old").withColumnRenamed("fingerprint", "old_mark")
    there = there.withColumnRenamed("counted_with", "old_with")
    same = (
        F.col("events").eqNullSafe(F.col("old"))
        & F.col("fingerprint").eqNullSafe(F.col("old_mark"))
        & F.col("counted_with").eqNullSafe(F.col("old_with"))
    )
    changed = now.join(there, ["user_idx", "day"], "full").where(~same)
    return changed.groupBy("user_idx").agg(F.min("day").alias("first_day"))


def find_changed(
    context: Context, events: DataFrame, config: User2Item, counted_with: str, keep: Keep
) -> Found:
    """Bring u2i_days up to date.

    Args:
        context: of the stage; writes u2i_days and u2i_counted.
        events: all mined events: user_idx, item_idx, ts, weight.
        config: see qarm.config.User2Item.
        counted_with: hash of the settings, the code and the ID vectors.
        keep: keeps frames that are read more than once.
    """
    from pyspark.sql import functions as F

    days, counted = latest(context.lake, u2i_days.TABLE), latest(context.lake, u2i_counted.TABLE)
    now = keep(describe_user_days(events, counted_with))
    first = keep(first_changes(now, counted))
    users = first.count()
    day = F.to_date("ts")
    todo = events.join(first, "user_idx").withColumn("is_target", day >= F.col("first_day"))
    mined = mine_user2item(todo, context.table("id_vectors"), config.window, config.min_similarity)
    mined = Mined(rows=keep(mined.rows), names=mined.names)
    new = keep(user_pairs(mined.pairs.withColumn("day", day), "day"))
    old = days.join(first, "user_idx").where("day >= first_day").select(*u2i_days.TABLE.key)
    gone = old.join(new, list(u2i_days.TABLE.key), "left_anti")
    kept = days.join(first, "user_idx", "left").where("first_day IS NULL OR day < first_day")
    kept_targets = int((kept.agg(F.sum("events")).first() or [0])[0] or 0)
    unchanged = now.join(first, "user_idx", "left").where("first_day IS NULL OR day < first_day")
    unchanged_targets = int((unchanged.agg(F.sum("events")).first() or [0])[0] or 0)
    if users:
        values = ("similarity", "events", "weight", "last_ts")
        differs = " OR ".join(f"s.{name} <> t.{name}" for name in values)
        context.merge(u2i_days.TABLE, new, update_when=differs, leave=gone)
        left = counted.join(now, ["user_idx", "day"], "left_anti")
        differs = " OR ".join(f"s.{n} <> t.{n}" for n in ("events", "fingerprint", "counted_with"))
        context.merge(u2i_counted.TABLE, now, update_when=differs, leave=left)
    else:
        publish_again(context, u2i_days.TABLE, u2i_counted.TABLE)
    return Found(mined, kept_targets, unchanged_targets, users)
