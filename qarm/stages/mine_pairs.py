"""Stage mine-pairs: positive events of the mining period -> id_vectors and item_pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qarm.errors import GateError, InputError
from qarm.ingest.parts import mining_events, mining_parts
from qarm.lake.caching import Keeper
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pairs.filters import filter_pairs, is_active, needs_features
from qarm.pairs.id_vectors import train_id_vectors
from qarm.pairs.mined import PAIR_COLUMNS, coverage
from qarm.pairs.mined_events import (
    count_left_out,
    describe,
    known_events,
    nothing_to_mine,
    of_live_items,
    window_end,
)
from qarm.pairs.nightly import Scratch
from qarm.pairs.pair_sources import SOURCES, check_sources
from qarm.pairs.source_record import Inputs, PairSource, SourcePairs, add_mass_lost, version_of
from schemas import id_vectors as id_vectors_schema
from schemas import item_pairs as item_pairs_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Write id_vectors and item_pairs, except for tables that the user brings.

    Raises:
        InputError: the mining period has no positive event, or none before ``--as-of``.
        GateError: fewer pairs than gates.min_pairs; item_pairs is not written then.
        ConfigError: pairs.sources is empty, or names an unknown source.
    """
    with Keeper() as keep:
        check_sources(context.config.pairs)
        parts = _parts(context)
        of_parts = mining_events(
            context.table("interactions"), context.table("event_splits"), parts
        )
        mined = keep(of_parts)
        known = known_events(mined, context.as_of)
        items = context.table("items") if context.find("items") is not None else None
        events = keep(known if items is None else of_live_items(known, items))
        log = describe(events)
        if not log["events"]:
            raise InputError(f"mine-pairs: {nothing_to_mine(mined, parts, context.as_of)}")
        context.say(f"{log['events']:,} events, {log['users']:,} users, {log['items']:,} items")
        ledgers = [
            Ledger(
                name="positive events of the mining period",
                rows_in=mined.count(),
                rows_out=log["events"],
                dropped=count_left_out(mined, items, context.as_of),
            )
        ]
        if not context.is_external("id_vectors"):
            ledgers.append(_write_id_vectors(context, events, log["items"]))
        if context.is_external("item_pairs"):
            return StageResult(ledgers=ledgers, facts={"log": log})
        found = [_mine(context, SOURCES[name], events, keep) for name in _names(context)]
        return _write_pairs(context, found, log, ledgers, parts)


def _names(context: Context) -> list[str]:
    return list(dict.fromkeys(context.config.pairs.sources))


def _parts(context: Context) -> list[str]:
    """Parts that pairs are mined from; the facts of ingest are about its own split only."""
    if not context.is_external("event_splits"):
        return mining_parts(context.facts("ingest"))
    mine = context.table("event_splits").where("part = 'mine'")
    return mining_parts({"has_mine": not mine.isEmpty()})


def _write_id_vectors(context: Context, events: DataFrame, items: int) -> Ledger:
    from pyspark.sql import functions as F

    context.say("ID vectors: implicit ALS")
    vectors = train_id_vectors(events, context.config.pairs.id_vectors, context.config.pairs.seed)
    context.overwrite(id_vectors_schema.TABLE, vectors.withColumn("model", F.lit("als")))
    known = context.table("id_vectors").select("item_idx")
    have = events.select("item_idx").distinct().join(known, "item_idx", "left_semi").count()
    return Ledger(name="ID vectors, items", rows_in=items, rows_out=have)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A source's pairs after filters."""

    name: str
    version: str
    mined: SourcePairs


def _mine(context: Context, source: PairSource, events: DataFrame, keep: Keeper) -> _Source:
    """Mine one source, estimate what its caps cost, filter its pairs."""
    context.say(f"{source.title} pairs")
    scratch = None
    if source.name in context.config.pairs.incremental:
        scratch = Scratch(
            lake=context.lake,
            lineage=context.lineage,
            code_version=context.code_version,
            vectors=context.ref("id_vectors").as_dict(),
        )
    inputs = Inputs(
        events=events,
        vectors=context.table("id_vectors"),
        config=context.config.pairs,
        keep=keep,
        scratch=scratch,
    )
    mined = source.mine(inputs)
    context.outputs.update(mined.scratch)
    if mined.scratch:
        recounted, left = (mined.skew[f"keys_{what}"] for what in ("recounted", "left"))
        context.say(f"{source.title}: {recounted:,} keys recounted, {left:,} left")
    if lost := add_mass_lost(source, inputs, mined):
        context.say(f"{source.title}: caps lose {lost:.2%} of the score mass (1 % of triggers)")
    mined = _filter(context, source, mined, keep)
    own = context.config.external.tables.get("id_vectors")
    version = version_of(source, context.config.pairs, context.code_version, own)
    return _Source(name=source.name, version=version, mined=mined)


def _filter(context: Context, source: PairSource, mined: SourcePairs, keep: Keeper) -> SourcePairs:
    """The pairs that the filters keep; the last ledger counts those that they removed."""
    config = context.config.pairs.filters
    if not is_active(config):
        return mined
    vectors = texts = None
    if needs_features(config):
        from qarm.pipeline.features import update_features  # imports torch

        update = update_features(context, context.config.encoder, ["text"])
        features = context.lake.read(update.ref)
        vectors = features.where("modality = 'text'").select("item_idx", "vector")
    if config.judge:
        texts = context.table("items").select("item_idx", "text")
    pairs, removed = filter_pairs(mined.pairs, config, keep=keep, vectors=vectors, texts=texts)
    shown = ", ".join(f"{n:,} {reason}" for reason, n in removed.items()) or "none"
    context.say(f"{source.title} pairs removed by filters: {shown}")
    *others, last = mined.ledgers
    last = replace(
        last,
        rows_out=last.rows_out - sum(removed.values()),
        dropped={**last.dropped, **removed},
    )
    return replace(mined, pairs=pairs, ledgers=[*others, last])


def _write_pairs(
    context: Context,
    found: list[_Source],
    log: dict[str, Any],
    ledgers: list[Ledger],
    parts: list[str],
) -> StageResult:
    """Check the gate, write item_pairs, and count what was written."""
    from pyspark.sql import functions as F

    gate = context.config.gates.min_pairs
    number = sum(each.mined.ledgers[-1].rows_out for each in found)
    if number < gate:
        raise GateError(
            f"gates.min_pairs: {number} pairs were mined, at least {gate} are required; from "
            f"{log['events']} events of {log['users']} users on {log['items']} items. Nothing was "
            "published. Lower the floors under [pairs], or check what ingest quarantined"
        )
    own = context.is_external("event_splits")
    end = window_end({} if own else context.facts("ingest"), log["end"], context.as_of).isoformat()
    split_id = _split_id(context)
    frames = [
        each.mined.pairs.select(*PAIR_COLUMNS)
        .withColumn("source", F.lit(each.name))
        .withColumn("miner_version", F.lit(each.version))
        for each in found
    ]
    union = frames[0]
    for frame in frames[1:]:
        union = union.unionByName(frame)
    context.overwrite(
        item_pairs_schema.TABLE,
        union.withColumn("split_id", F.lit(split_id)).withColumn(
            "window_end", F.lit(end).cast("timestamp")
        ),
    )
    written = coverage(context.table("item_pairs"))
    total = Ledger(
        name="item pairs",
        rows_in=sum(each.mined.ledgers[-1].rows_in for each in found),
        rows_out=sum(n for n, _ in written.values()),
        dropped={
            f"{each.name} {reason}": n
            for each in found
            for reason, n in each.mined.ledgers[-1].dropped.items()
        },
    )
    of_sources = [ledger for each in found for ledger in each.mined.ledgers]
    return StageResult(
        ledgers=[total, *ledgers, *of_sources],
        metrics=_metrics(written, _names(context), log["items"], "+".join(parts)),
        facts={
            "log": log,
            "split_id": split_id,
            "window_end": end,
            "miner_versions": {each.name: each.version for each in found},
            "skew": {each.name: each.mined.skew for each in found},
        },
    )


def _metrics(
    written: dict[str, tuple[int, int]], names: list[str], items: int, part: str
) -> list[Metric]:
    """Per source the pairs of the committed table, and the share of items in them."""
    metrics = []
    for name in names:
        n, covered = written.get(name, (0, 0))
        share = covered / items
        metrics += [
            Metric(metric="pairs", value=n, n=n, variant=name, part=part),
            Metric(metric="item_coverage", value=share, n=items, variant=name, part=part),
        ]
    return metrics


def _split_id(context: Context) -> str:
    if not context.is_external("event_splits") and "split_id" in context.facts("ingest"):
        return str(context.facts("ingest")["split_id"])
    row = context.table("event_splits").select("split_id").first()
    assert row is not None  # there are mining events, so there are rows
    return str(row["split_id"])
