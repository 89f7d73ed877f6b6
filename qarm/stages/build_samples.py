"""Stage build-samples: events -> ranking_samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qarm.errors import InputError, RowsLostError
from qarm.ingest.parts import training_parts
from qarm.lake.caching import Keeper
from qarm.pipeline.own_tables import check_own_splits
from qarm.pipeline.result import Ledger, StageResult
from qarm.ranking import history, negatives, order_only, rates, samples
from qarm.training.writer import FixedList, in_training_order
from schemas import ranking_samples

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.lake.tables import TableRef
    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Build the samples, write them, and count what was written.

    Raises:
        InputError: no event in the train part, or negatives that the log cannot give.
        RowsLostError: two samples share an id.
    """
    config = context.config.samples
    labels = label_names(context)
    train_parts = training_parts(context.facts("ingest"))
    check_own_splits(context)
    with Keeper() as keep:
        events = keep(
            samples.prepare_events(
                context.table("interactions"), context.table("event_splits"), labels
            )
        )
        mode = samples.choose_mode(config.negatives, events)
        context.say(f"{mode} negatives, labels {', '.join(labels)}")
        has_times = not context.facts("ingest").get("time_order_only", False)
        caps = samples.find_caps(events, config, has_times)
        if mode == "sampled" and has_times:
            totals = keep(rates.totals_before(events))
            numbers = negatives.numbered_items(events, totals)
            events = keep(rates.with_totals(events, totals))
        elif mode == "sampled":
            numbers = order_only.numbered_items(events)
            events = keep(order_only.with_totals(events, train_parts))
        marked = samples.mark(events, mode, caps, config.seed)
        counts = marked.groupBy("dropped").count().collect()
        dropped = {row["dropped"]: row["count"] for row in counts}
        kept = dropped.pop(None, 0)
        share = _training_share(events, train_parts, mode, config.negatives_per_positive)
        rows = samples.observed_samples(marked)
        if mode == "sampled":
            rows = samples.with_sampled_negatives(rows, events, numbers, labels, config)
        rows = samples.with_features(
            samples.with_sample_id(rows),
            events,
            train_parts=train_parts,
            share=share,
            mode=mode,
            has_times=has_times,
            config=config,
        )
        table = ranking_samples.table(labels)
        ordered = in_training_order(
            samples.finished(rows),
            table,
            about_rows=kept * (1 + (config.negatives_per_positive if mode == "sampled" else 0)),
            shards=context.config.loader.shards,
            seed=config.seed,
            lists={
                "history_item_idx": FixedList(config.history_length, history.PADDING),
                "history_ts": FixedList(config.history_length),
            },
        )
        ref = context.overwrite(table, ordered, mode=mode)
    facts, rows_out = _facts(context, ref, labels)
    sampled = facts["negative_kinds"].get("sampled", 0)
    facts |= {"mode": mode, "labels": list(labels), "history_length": config.history_length}
    facts["positive_share"] = share
    if mode == "sampled":
        facts["negatives_not_found"] = config.negatives_per_positive * kept - sampled
    ledger = Ledger(
        name="events of train, valid and test",
        rows_in=kept + sum(dropped.values()),
        rows_out=rows_out,
        dropped=dropped,
        added={"sampled_negatives": sampled},
    )
    return StageResult(ledgers=[ledger], facts=facts)


def label_names(context: Context) -> list[str]:
    """The labels, the positive one first: as ingest published them, else as configured."""
    published = context.facts("ingest").get("labels")
    if published:
        return list(published)
    log = context.config.log
    return [log.positive, *sorted(set(log.labels) - {log.positive})]


def _training_share(
    events: DataFrame, train_parts: Sequence[str], mode: samples.Mode, per_positive: int
) -> float:
    """Share of positives in the training part (of impressions, where negatives are drawn)."""
    from pyspark.sql import functions as F

    row = (
        events.where(F.col("part").isin(*train_parts))
        .agg(F.count("*").alias("events"), F.count_if("positive").alias("positives"))
        .first()
    )
    if row is None or not row["positives"]:
        seen = 0 if row is None else row["events"]
        raise InputError(
            f"the train part has {seen} events and no positive one; a ranker cannot be trained. "
            "Look at [split] and at log.labels"
        )
    return 1 / (1 + per_positive) if mode == "sampled" else row["positives"] / row["events"]


def _facts(context: Context, ref: TableRef, labels: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Counts of what was committed, by part and label and by kind of negative.

    Raises:
        RowsLostError: two samples share an id.
    """
    from pyspark.sql import functions as F

    written = context.lake.read(ref)
    sums = {f"label_{name}": F.sum(f"label_{name}").cast("bigint") for name in labels}
    counts = written.groupBy("part", "negative_kind").agg(
        F.count("*").alias("rows"), *(value.alias(name) for name, value in sums.items())
    )
    parts: dict[str, dict[str, int]] = {}
    kinds: dict[str, int] = {}
    for row in counts.collect():
        part = parts.setdefault(row["part"], dict.fromkeys(["rows", *labels], 0))
        part["rows"] += row["rows"]
        for name in labels:
            part[name] += row[f"label_{name}"]
        kinds[row["negative_kind"]] = kinds.get(row["negative_kind"], 0) + row["rows"]
    rows = sum(part["rows"] for part in parts.values())
    distinct = written.select("sample_id").distinct().count()
    if distinct != rows:
        raise RowsLostError(
            f"{rows} samples have {distinct} distinct sample_id; events must be unique by "
            "(user_idx, item_idx, event, ts), and so must rows of event_splits"
        )
    return {"parts": parts, "negative_kinds": kinds}, rows
