"""ItemCF in a lake: all at once, or what has changed since the run before, by day or by user."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from qarm.config import fingerprint
from qarm.lake.caching import Keeper
from qarm.lake.latest import latest, publish_again
from qarm.ledger import Ledger
from qarm.pairs.itemcf import mine_itemcf
from qarm.pairs.itemcf_days import (
    count_days,
    describe_days,
    of_latest_days,
    plan_days,
    score_days,
)
from qarm.pairs.itemcf_users import count_changed
from qarm.pairs.mined import keep_pairs
from schemas import itemcf_counted, itemcf_days, itemcf_item_days

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context


def mine_itemcf_pairs(
    context: Context, events: DataFrame, kept: Keeper
) -> tuple[DataFrame, list[Ledger], dict[str, Any]]:
    """Pairs as of ``itemcf``, their ledger, and facts about skew, the way the configuration says.

    Args:
        context: of stage mine-pairs; writes the partial tables.
        events: all mined events, at least one: user_idx, item_idx, ts, seq, weight.
        kept: keeps frames that are read more than once.
    """
    config = context.config.pairs.itemcf
    if config.by_day:
        return _mine_itemcf_by_day(context, events, kept)
    if config.incremental:
        pairs, ledgers, skew = _mine_itemcf_by_user(context, events, kept)
    else:
        pairs, ledgers, skew = keep_pairs("ItemCF", mine_itemcf(events, config, kept), kept)
    if config.history_days:
        recent = of_latest_days(events, config.history_days).count()
        skew["events_before_history"] = events.count() - recent
    return pairs, ledgers, skew


def _mine_itemcf_by_user(
    context: Context, events: DataFrame, kept: Keeper
) -> tuple[DataFrame, list[Ledger], dict[str, Any]]:
    config = context.config.pairs.itemcf
    counted_with = _itemcf_counted_with(context, {"top_k", "min_support", "normalization"})
    found = count_changed(context, events, config, counted_with, kept)
    context.say(f"ItemCF: {found.skew['users_with_changes']:,} users have lists that changed")
    ledger = Ledger(
        name="ItemCF pairs",
        rows_in=found.tally.pop("scored"),
        rows_out=found.pairs.count(),
        dropped=found.tally,
    )
    return found.pairs, [ledger], found.skew


def _mine_itemcf_by_day(
    context: Context, events: DataFrame, kept: Keeper
) -> tuple[DataFrame, list[Ledger], dict[str, Any]]:
    """Count the days that need it into the partial tables, then add all days up."""
    from pyspark.sql import functions as F

    config = context.config.pairs.itemcf
    scoring = {"top_k", "min_support", "normalization", "half_life_days"}
    counted_with = _itemcf_counted_with(context, scoring)
    before = _counted_days(context)
    days = plan_days(
        describe_days(events),
        before,
        counted_with,
        config.window_days,
        config.history_days,
    )
    context.say(
        f"ItemCF by day: {len(days.todo)} of {len(days.now)} days to count, {len(days.leave)} leave"
    )
    touched = ", ".join(f"DATE'{day}'" for day in [*days.todo, *days.leave])
    if touched:
        pairs, weights = count_days(events, config, days.todo)
        gone = f"t.day IN ({touched})"
        differs = "s.units <> t.units OR s.events <> t.events OR s.last_ts <> t.last_ts"
        context.merge(itemcf_days.TABLE, pairs, update_when=differs, delete_missing_where=gone)
        differs = "s.weight <> t.weight"
        context.merge(
            itemcf_item_days.TABLE, weights, update_when=differs, delete_missing_where=gone
        )
    else:
        publish_again(context, itemcf_days.TABLE, itemcf_item_days.TABLE)
    counted = {day: (*facts, counted_with) for day, facts in days.now.items()}
    if counted != before:
        rows = [(day, *facts) for day, facts in counted.items()]
        columns = "day date, events bigint, fingerprint string, counted_with string"
        context.overwrite(itemcf_counted.TABLE, context.spark.createDataFrame(rows, columns))
    else:
        publish_again(context, itemcf_counted.TABLE)
    scored, tally = score_days(
        context.table("itemcf_days"),
        context.table("itemcf_item_days"),
        config,
        max(days.now),
        kept,
    )
    ledger = Ledger(
        name="ItemCF pairs",
        rows_in=tally.pop("scored"),
        rows_out=scored.count(),
        dropped=tally,
    )
    largest = events.groupBy("user_idx", F.to_date("ts")).count().agg(F.max("count")).first()
    assert largest is not None
    skew = {
        "items_capped": 0,
        "most_events_of_a_user_and_day": int(largest[0] or 0),
        "days": len(days.now),
        "days_counted": len(days.todo),
    }
    return scored, [ledger], skew


def _itemcf_counted_with(context: Context, scoring: set[str]) -> str:
    """Hash of what counts depend on beside the events: not on ``scoring``, which comes after."""
    settings = context.config.pairs.itemcf.model_dump(exclude={*scoring, "bm25_k1", "bm25_b"})
    return fingerprint({"code": context.code_version, "settings": settings})


def _counted_days(context: Context) -> dict[date, tuple[int, str, str]]:
    """What the partial tables hold: their latest versions, since a day's row comes last."""
    return {
        row["day"]: (row["events"], row["fingerprint"], row["counted_with"])
        for row in latest(context.lake, itemcf_counted.TABLE).collect()  # one row a day
    }
