"""Which events pairs are mined from, and facts about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from qarm.ingest.times import from_micros, micros_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import DataFrame


def known_events(events: DataFrame, as_of: datetime | None) -> DataFrame:
    """``events`` strictly before ``as_of``, as in stage ingest; None: all."""
    from pyspark.sql import functions as F

    if as_of is None:
        return events
    return events.where(F.col("ts") < F.timestamp_micros(F.lit(micros_of(as_of))))


def of_live_items(events: DataFrame, items: DataFrame) -> DataFrame:
    """``events`` without those of items that left the catalogue: no pair may name them."""
    removed = items.where("removed_at IS NOT NULL").select("item_idx")
    return events.join(removed, "item_idx", "left_anti")


def count_left_out(
    events: DataFrame, items: DataFrame | None, as_of: datetime | None
) -> dict[str, int]:
    """Reason -> events that ``known_events`` or ``of_live_items`` leave out, counted by themselves.

    Args:
        events: positive events of the mining period.
        items: table items; None: there is none.
        as_of: the run's ``--as-of``.
    """
    from pyspark.sql import functions as F

    late, gone = "at_or_after_as_of", "removed_item"
    reason = F.lit(None).cast("string")
    counted = dict.fromkeys((late,) if as_of is not None else (), 0) | {gone: 0}
    if items is not None:
        left = items.where("removed_at IS NOT NULL").select("item_idx", F.lit(gone).alias("gone"))
        events = events.join(left, "item_idx", "left")
        reason = F.col("gone")
    if as_of is not None:
        known = F.unix_micros("ts") < micros_of(as_of)
        reason = F.when(known, reason).otherwise(late)
    rows = events.groupBy(reason.alias("reason")).count().where("reason IS NOT NULL").collect()
    return counted | {row["reason"]: int(row["count"]) for row in rows}


def describe(events: DataFrame) -> dict[str, Any]:
    """Number of events, users and items, and end: the ISO time right after the last event."""
    from pyspark.sql import functions as F

    row = events.agg(
        F.count("*").alias("events"),
        F.count_distinct("user_idx").alias("users"),
        F.count_distinct("item_idx").alias("items"),
        F.unix_micros(F.max("ts")).alias("last"),
    ).first()
    assert row is not None
    last = row["last"]
    end = datetime(1970, 1, 1) + timedelta(microseconds=last + 1) if last is not None else None
    return {
        "events": row["events"],
        "users": row["users"],
        "items": row["items"],
        "end": end.isoformat() if end else None,
    }


def nothing_to_mine(events: DataFrame, parts: Sequence[str], as_of: datetime | None) -> str:
    """Why none of ``events``, those of the mining period, can be mined, and what to check."""
    from pyspark.sql import functions as F

    row = events.agg(F.unix_micros(F.min("ts"))).first()
    assert row is not None
    first = from_micros(row[0] or 0)
    if as_of is not None and row[0] is not None and first >= as_of:
        return (
            f"no event is known as of {as_of.isoformat()} (--as-of): the first positive event of "
            f"the mining period is at {first.isoformat()}, and only events before --as-of count; "
            "give a later time"
        )
    return (
        f"the mining period has no positive event (part {' + '.join(parts)} of the split); check "
        "log.labels, log.positive and the shares of the split"
    )


def window_end(facts: Mapping[str, Any], last: str, as_of: datetime | None) -> datetime:
    """End of the mining period (UTC, naive): the split's, or else the moment after the last mined
    event; never after ``as_of``.

    Args:
        facts: facts of stage ingest; empty for a split of the user's own, which ingest does not
            describe. Splits by user have no common end.
        last: ISO time of the moment after the last mined event.
        as_of: the run's ``--as-of``.
    """
    end = facts.get("mine_end" if facts.get("has_mine") else "train_end") or last
    instants = [datetime.fromisoformat(each) for each in (end, last)]
    latest_end = max(
        each.astimezone(UTC).replace(tzinfo=None) if each.tzinfo else each for each in instants
    )
    return min(latest_end, as_of or latest_end)
