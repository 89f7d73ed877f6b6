"""Stage 1, ingest: raw log and catalogue -> items, users, interactions, event_splits, quarantine.

The log is read once and shuffled once, by user. All checks and gates run before the first commit.
After a crash between commits, run the stage again: every commit replaces or merges.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from qarm.config import Config
from qarm.errors import ConfigError, InputError
from qarm.ingest import (
    catalog,
    gates,
    log,
    merge,
    oddities,
    registry,
    splits,
    statistics,
    table_rows,
    times,
)
from qarm.ingest.content import CONTENT
from qarm.ingest.expressions import explained
from qarm.ingest.sources import column
from qarm.lake.caching import Keeper
from qarm.ledger import Ledger, StageResult
from schemas import Table, event_splits, interactions, items, quarantine, users

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The sources, read and checked; nothing is written yet."""

    rows: int
    """Raw log rows, counted at the source."""
    catalog_rows: int | None
    """Raw catalogue rows, counted at the source; None: the catalogue is made from the log."""
    lines: DataFrame
    """Log rows, each with the reason that rejects it, or null."""
    catalog_lines: DataFrame
    """Catalogue lines, each with its problems."""
    events: DataFrame
    """Merged lines with seq, part and labels."""
    reasons: dict[str, int]
    """Reason -> log rows."""
    examples: gates.Examples
    """Reasons -> an example of each, for messages of gates."""
    known: registry.Known
    """Items and users of the lake at the start of the run."""
    user_type: str
    item_type: str


def run(context: Context) -> StageResult:
    """Read the sources that the configuration names and write the five tables.

    Raises:
        InputError: a file, column or value cannot be used.
        ConfigError: an expression or the split does not fit the log.
        GateError: too many rows are in quarantine, or too few are left.
    """
    _check(context)
    with Keeper() as keep, explained("log"):
        judged = _judge(context, keep)
        return _write(context, judged, keep)


def _check(context: Context) -> None:
    """Checks that need no rows."""
    config = context.config
    zone = context.spark.conf.get("spark.sql.session.timeZone")
    if zone not in ("UTC", "Etc/UTC", "GMT", "Z", "+00:00"):
        raise ConfigError(
            f"spark.sql.session.timeZone is {zone}, expected UTC: days and times without a zone "
            "would shift; start with spark-defaults.conf"
        )
    if config.items.from_log == bool(config.items.path):
        raise ConfigError(
            "the catalogue comes either from items.path or from the log (items.from_log = true); "
            f"got path = {config.items.path} and from_log = {config.items.from_log}"
        )
    if config.items.from_log and config.items.id not in ("item_id", config.log.item):
        raise ConfigError(
            f"items.id = {config.items.id!r} must be log.item = {config.log.item!r} where the "
            "catalogue is made from the log"
        )
    splits.parameters(config.split, config.log)


def _judge(context: Context, keep: Keeper) -> _Judged:
    config, spark = context.config, context.spark
    raw = log.open_log(spark, config.log, config.split)
    kinds = {f.name: f.dataType.simpleString() for f in raw.schema}
    rows = log.canonical(raw, config.log, config.split, _future_at(context))
    known = registry.existing(context.lake)
    described, raw_items, known_ids = [], None, None
    if config.items.from_log:
        described = catalog.content_of_lines(raw, config.items)
    else:
        raw_items = catalog.open_catalog(spark, config.items)
        if config.items.unknown == "quarantine":
            known_ids = catalog.ids(raw_items, config.items, known.items, config.log.null_words)

    total = raw.count()
    catalog_rows = None if raw_items is None else raw_items.count()
    _refuse_empty(config, total, catalog_rows)
    lines = keep(log.judged(rows, known_ids))
    reasons = table_rows.reason_counts(lines, log.REASONS)
    context.say(f"{total:,} log rows, {sum(reasons.values()):,} of them to quarantine")
    examples = partial(log.examples, lines, known_items=known_ids)
    gates.check_log(config.gates, total, reasons, examples)

    usable = lines.where("reason IS NULL")
    events = merge.with_order(merge.merge_lines(usable, config.log.merge_values, described))
    events = events.withColumn("positive", column(f"label_{config.log.positive}"))
    order_only = config.log.time_format == "order"
    events = splits.assign(events, config.split, keep, order_only=order_only)
    if raw_items is not None:
        found = catalog.read_catalog(raw_items, config.items, config.log.null_words)
        catalog_lines = keep(found)
    else:
        item_type = kinds[config.log.item]
        catalog_lines = keep(catalog.from_lines(events, raw, config.items, item_type))
    return _Judged(
        rows=total,
        catalog_rows=catalog_rows,
        lines=lines,
        catalog_lines=catalog_lines,
        events=events,
        reasons=reasons,
        examples=examples,
        known=known,
        user_type=kinds[config.log.user],
        item_type=kinds[config.log.item],
    )


def _refuse_empty(config: Config, rows: int, catalog_rows: int | None) -> None:
    if rows == 0:
        where = config.log.path or config.split.files
        raise InputError(f"log.path: no row in {where}; expected at least one")
    if catalog_rows == 0:
        raise InputError(f"items.path: no row in {config.items.path}; expected at least one item")


def _future_at(context: Context) -> datetime | None:
    """Events at or after this time are in the future; None: no limit is known."""
    if context.config.log.as_of is not None:
        return times.parse_iso(context.config.log.as_of, "log.as_of")
    return context.as_of


def _write(context: Context, judged: _Judged, keep: Keeper) -> StageResult:
    from pyspark.sql import functions as F

    config, events, known = context.config, judged.events, judged.known
    seen_users = keep(table_rows.seen(events, "user_id"))
    seen_items = keep(table_rows.seen(events, "item_id"))
    present = judged.catalog_lines.where("reason IS NULL")
    summary, broken_text = catalog.summary(present)
    columns = ["item_id", *CONTENT, "content_hash", "source_type"]
    catalog_now, log_only = present.select(*columns), 0
    if config.items.unknown == "keep" and not config.items.from_log:
        extra = registry.named_by_log_only(seen_items, present, known.items, judged.item_type)
        catalog_now, log_only = catalog_now.unionByName(extra), extra.count()
    parts = statistics.part_statistics(events)
    rows = sum(part["rows"] for part in parts.values())
    sizes = (rows, summary["items"] + log_only)
    gates.check_sizes(config.gates, *sizes, judged.reasons, judged.examples)
    if not {"mine", "train"} & parts.keys():
        raise InputError(
            f"split.kind = {config.split.kind}: no event is in the training period; parts: "
            f"{ {part: p['rows'] for part, p in parts.items()} }"
        )
    if absent := [part for part in ("valid", "test") if part not in parts]:
        context.say(
            f"the split has no {' and no '.join(absent)} part: codes can be made, but train-ranker "
            "will stop, since it needs valid to choose its epoch and test to be evaluated"
        )
    last = max(part["last"] for part in parts.values())
    as_of = context.as_of or times.from_micros(last + 1)
    split_id = splits.split_id(config.split, config.log)
    log_statistics = _log_statistics(config, events, parts, seen_users, seen_items)
    odd = [
        *oddities.of_log(parts, log_statistics.get("over_time"), config.log.positive),
        *oddities.of_text(summary["with_broken_text"], broken_text),
        *oddities.of_ids({"users": seen_users, "items": catalog_now}),
    ]
    oddities.check(config.gates, odd)

    changed_users = registry.user_changes(seen_users, known, judged.user_type, keep)
    _commit(context, users.TABLE, changed_users, known, "s.first_seen < t.first_seen")
    changed_items = registry.item_changes(catalog_now, seen_items, known, keep)
    if not config.items.from_log:
        changed_items = changed_items.unionByName(
            registry.items_removed(catalog_now, known.items, as_of)
        )
    _commit(context, items.TABLE, changed_items, known, "true")
    indexed = table_rows.with_indices(events, context.table("users"), context.table("items"))
    labels = [config.log.positive, *(n for n in config.log.labels if n != config.log.positive)]
    context.overwrite(
        interactions.TABLE, table_rows.interactions(indexed, labels), split_id=split_id
    )
    context.overwrite(
        event_splits.TABLE,
        indexed.withColumn("split_id", F.lit(split_id)),
        split=splits.parameters(config.split, config.log),
    )
    rejected = log.rejected(judged.lines, context.run_id)
    rejected = rejected.unionByName(catalog.rejected(judged.catalog_lines, context.run_id))
    context.overwrite(quarantine.TABLE, rejected)

    ledgers, counts = _ledgers(context, judged, present, seen_items)
    for each in odd:
        context.say(f"odd: {each.text}")
    facts = {
        "as_of": as_of.isoformat(),
        "split_id": split_id,
        "split": splits.parameters(config.split, config.log),
        **statistics.boundaries(parts),
        "has_mine": "mine" in parts,
        "labels": labels,
        "positive": config.log.positive,
        "parts": {part: p["rows"] for part, p in parts.items()},
        "positives": {part: p["positives"] for part, p in parts.items()},
        **counts,
        "items_only_in_log": log_only,
        "users": log_statistics["degrees"]["users"]["n"],
        "items_without_text": summary["without_text"] + log_only,
        "items_with_image": summary["with_image"],
        "items_with_audio": summary["with_audio"],
        "time_order_only": config.log.time_format == "order",
        "log": log_statistics,
        "oddities": oddities.as_facts(odd),
    }
    return StageResult(ledgers=ledgers, facts=facts)


def _commit(
    context: Context, table: Table, changes: DataFrame, known: registry.Known, update_when: str
) -> None:
    """MERGE ``changes`` into the table; without any, its version stays as it is.

    Raises:
        ConflictError: another run has numbered items or users since ``known`` was read.
    """
    version = known.versions[table.name]
    if version < 0:
        context.overwrite(table, changes, drawn_at=version)
    elif changes.isEmpty():
        context.pin(table, version)
    else:
        context.merge(table, changes, update_when=update_when, drawn_at=version)


def _log_statistics(
    config: Config,
    events: DataFrame,
    parts: dict[str, dict[str, int]],
    seen_users: DataFrame,
    seen_items: DataFrame,
) -> dict[str, Any]:
    values: dict[str, Any] = {"degrees": statistics.degrees(seen_users, seen_items)}
    if config.log.time_format != "order":  # positions have no days
        first = min(part["first"] for part in parts.values())
        last = max(part["last"] for part in parts.values())
        values["over_time"] = statistics.events_over_time(events, first, last)
    return values


def _ledgers(
    context: Context, judged: _Judged, present: DataFrame, seen_items: DataFrame
) -> tuple[list[Ledger], dict[str, int]]:
    """Row counts of the sources against those of the committed tables."""
    dropped = table_rows.quarantined(context.table("quarantine"))
    written = table_rows.written(context.table("interactions"))
    log_reasons = {
        r: dropped[("interactions", r)] for r in log.REASONS if ("interactions", r) in dropped
    }
    kept = table_rows.catalog_written(context.table("items"), present)
    line_reasons = {r: dropped.get(("items", r), 0) for r in catalog.LINE_REASONS}
    ledgers = [
        Ledger(
            name="log lines",
            rows_in=judged.rows,
            rows_out=written["rows"],
            dropped={**log_reasons, "merged_lines": written["lines"] - written["rows"]},
        ),
        _catalog_ledger(judged.catalog_rows, kept["of_catalog"], line_reasons, seen_items),
    ]
    counts = {
        "interactions": written["rows"],
        "items": kept["present"],
        "items_removed": kept["removed"],
    }
    return ledgers, counts


def _catalog_ledger(
    rows: int | None, written: int, reasons: dict[str, int], seen_items: DataFrame
) -> Ledger:
    if rows is None:
        return Ledger(name="items of the log", rows_in=seen_items.count(), rows_out=written)
    return Ledger(name="catalogue lines", rows_in=rows, rows_out=written, dropped=reasons)
