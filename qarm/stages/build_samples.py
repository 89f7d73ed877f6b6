"""Stage build-samples: events -> ranking_samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.ingest.parts import training_parts
from qarm.lake.caching import Keeper
from qarm.ledger import Ledger, StageResult
from qarm.ranking import history, impressions, negatives, order_only, rates
from qarm.ranking.caps import find_caps
from qarm.ranking.sample_features import with_features
from qarm.training.writer import FixedList, in_training_order
from schemas import ranking_samples

if TYPE_CHECKING:
    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Build the samples, write the table, and count its rows.

    Raises:
        InputError: the train part has no positive event, or observed negatives are configured but
            the log has none.
        RowsLostError: two samples share an id.
    """
    from pyspark.sql import functions as F

    config = context.config.samples
    labels = label_names(context)
    train_parts = training_parts(context.facts("ingest"))
    with Keeper() as keep:
        events = keep(
            impressions.prepare_events(
                context.table("interactions"), context.table("event_splits"), labels
            )
        )
        read = events.where(F.col("part").isin(*impressions.SAMPLED_PARTS)).count()
        mode = impressions.choose_mode(config.negatives, events)
        context.say(f"{mode} negatives, labels {', '.join(labels)}")
        has_times = not context.facts("ingest").get("time_order_only", False)
        caps = find_caps(events, config, has_times)
        if mode == "sampled" and has_times:
            totals = keep(rates.totals_before(events))
            numbers = negatives.numbered_items(events, totals)
            events = keep(rates.with_totals(events, totals))
        elif mode == "sampled":
            numbers = order_only.numbered_items(events)
            events = keep(order_only.with_totals(events, train_parts))
        marked = impressions.mark(events, mode, caps, config.seed)
        fates = marked.groupBy("dropped").count().collect()
        dropped = {row["dropped"]: row["count"] for row in fates}
        kept = dropped.pop(None, 0)
        share = impressions.training_share(events, train_parts, mode, config.negatives_per_positive)
        rows, sampled = impressions.observed_samples(marked), 0
        if mode == "sampled":
            rows, sampled = impressions.with_sampled_negatives(
                rows, events, numbers, labels, config, keep
            )
        rows = with_features(
            impressions.with_sample_id(rows),
            events,
            train_parts=train_parts,
            share=share,
            mode=mode,
            has_times=has_times,
            config=config,
        )
        table = ranking_samples.table(labels)
        ordered = in_training_order(
            impressions.finished(rows),
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
    counts = impressions.count_samples(context.lake.read(ref), labels)
    facts = {
        "parts": counts.parts,
        "negative_kinds": counts.negative_kinds,
        "mode": mode,
        "labels": list(labels),
        "history_length": config.history_length,
        "positive_share": share,
    }
    if mode == "sampled":
        facts["negatives_not_found"] = config.negatives_per_positive * kept - sampled
    ledger = Ledger(
        name="events of train, valid and test",
        rows_in=read,
        rows_out=counts.rows,
        dropped=dropped,
        added={"sampled_negatives": sampled},
    )
    return StageResult(ledgers=[ledger], facts=facts)


def label_names(context: Context) -> list[str]:
    """Names of the labels, the positive one first: those that ingest published, else configured."""
    published = context.facts("ingest").get("labels")
    if published:
        return list(published)
    log = context.config.log
    return [log.positive, *sorted(set(log.labels) - {log.positive})]
