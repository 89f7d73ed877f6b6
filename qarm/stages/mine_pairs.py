"""Stage mine-pairs: positive events of the mining period -> id_vectors and item_pairs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from qarm.config import fingerprint
from qarm.errors import ConfigError, GateError, InputError
from qarm.ingest.parts import mining_events, mining_parts
from qarm.ingest.times import from_micros, micros_of
from qarm.lake.caching import Keeper
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pairs.filters import filter_pairs, is_active, needs_features
from qarm.pairs.id_vectors import train_id_vectors
from qarm.pairs.itemcf import itemcf_mass_lost
from qarm.pairs.itemcf_nights import mine_itemcf_pairs
from qarm.pairs.mined import PAIR_COLUMNS, Mined, keep_pairs
from qarm.pairs.swing import mine_swing, swing_mass_lost
from qarm.pairs.swing_touched import score_touched
from qarm.pairs.u2i_days import find_changed
from qarm.pairs.user2item import cap_user2item, mine_user2item, pair_user2item, user_pairs
from schemas import id_vectors as id_vectors_schema
from schemas import item_pairs as item_pairs_schema
from schemas import u2i_days

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

_TITLES = {"u2i": "User2Item", "swing": "Swing", "itemcf": "ItemCF"}


def run(context: Context) -> StageResult:
    """Write id_vectors and item_pairs, but for what the user brings.

    Raises:
        InputError: the mining period has no positive event, or none before ``--as-of``.
        GateError: fewer pairs than gates.min_pairs; item_pairs is not written then.
        ConfigError: pairs.sources is empty.
    """
    with Keeper() as kept:
        mined = kept(
            mining_events(
                context.table("interactions"), context.table("event_splits"), _parts(context)
            )
        )
        known = _known(context, mined)
        events = kept(_of_live_items(context, known))
        log = _describe(events)
        if not log["events"]:
            raise InputError(f"mine-pairs: {_nothing_to_mine(context, mined)}")
        context.say(f"{log['events']:,} events, {log['users']:,} users, {log['items']:,} items")
        before, before_removals = mined.count(), known.count()
        dropped = {"removed_item": before_removals - log["events"]}
        if context.as_of is not None:
            dropped["at_or_after_as_of"] = before - before_removals
        ledgers = [
            Ledger(
                name="positive events of the mining period",
                rows_in=before,
                rows_out=log["events"],
                dropped=dropped,
            )
        ]
        if not context.is_external("id_vectors"):
            ledgers.append(_write_id_vectors(context, events, log["items"]))
        if context.is_external("item_pairs"):
            return StageResult(ledgers=ledgers, facts={"log": log})
        return _write_pairs(context, events, log, ledgers, kept)


def _known(context: Context, events: DataFrame) -> DataFrame:
    """``events`` before the run's ``--as-of``: those at that instant are future, as for ingest."""
    from pyspark.sql import functions as F

    if context.as_of is None:
        return events
    return events.where(F.col("ts") < F.timestamp_micros(F.lit(micros_of(context.as_of))))


def _nothing_to_mine(context: Context, mined: DataFrame) -> str:
    """Why no event is left of ``mined``, and what to look at."""
    from pyspark.sql import functions as F

    row = mined.agg(F.unix_micros(F.min("ts"))).first()
    assert row is not None
    first = from_micros(row[0] or 0)
    if context.as_of is not None and row[0] is not None and first >= context.as_of:
        return (
            f"no event is known as of {context.as_of.isoformat()} (--as-of): the first positive "
            f"event of the mining period is of {first.isoformat()}, and those before --as-of "
            "alone count; give a later one"
        )
    return (
        "the mining period has no positive event "
        f"(part {' + '.join(_parts(context))} of the split); check "
        "log.labels, log.positive and the shares of the split"
    )


def _parts(context: Context) -> list[str]:
    """Parts that pairs are mined from; the facts of ingest are about its own split only."""
    if not context.is_external("event_splits"):
        return mining_parts(context.facts("ingest"))
    mine = context.table("event_splits").where("part = 'mine'")
    return mining_parts({"has_mine": not mine.isEmpty()})


def _of_live_items(context: Context, events: DataFrame) -> DataFrame:
    """``events`` without those of items that have left the catalogue: no pair may name them."""
    if context.find("items") is None:
        return events
    removed = context.table("items").where("removed_at IS NOT NULL").select("item_idx")
    return events.join(removed, "item_idx", "left_anti")


def _describe(events: DataFrame) -> dict[str, Any]:
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


def _write_id_vectors(context: Context, events: DataFrame, items: int) -> Ledger:
    from pyspark.sql import functions as F

    config = context.config.pairs
    if config.id_vectors.version is not None:
        pinned = context.pin(id_vectors_schema.TABLE, config.id_vectors.version)
        context.say(f"ID vectors: version {pinned.version}, as id_vectors.version says")
    else:
        context.say("ID vectors: implicit ALS")
        vectors = train_id_vectors(events, config.id_vectors, config.seed)
        context.overwrite(id_vectors_schema.TABLE, vectors.withColumn("model", F.lit("als")))
    known = context.table("id_vectors").select("item_idx")
    have = events.select("item_idx").distinct().join(known, "item_idx", "left_semi").count()
    missing = {}
    if config.id_vectors.version is not None:
        missing = {"not_in_the_pinned_version": items - have}
    return Ledger(name="ID vectors, items", rows_in=items, rows_out=have, dropped=missing)


def _write_pairs(
    context: Context, events: DataFrame, log: dict[str, Any], ledgers: list[Ledger], kept: Keeper
) -> StageResult:
    from pyspark.sql import functions as F

    config = context.config.pairs
    sources: list[str] = list(dict.fromkeys(config.sources))
    if not sources:
        raise ConfigError("pairs.sources is empty; name at least one of u2i, swing, itemcf")
    miners = {"u2i": _mine_user2item, "swing": _mine_swing, "itemcf": mine_itemcf_pairs}
    frames: list[DataFrame] = []
    of_source: list[Ledger] = []
    skew: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for source in sources:
        context.say(f"{_TITLES[source]} pairs")
        pairs, more, skew[source] = miners[source](context, events, kept)
        _add_mass_lost(context, source, events, skew[source], kept)
        pairs, more[-1] = _filter(context, source, pairs, events, more[-1], kept)
        ledgers += more
        of_source.append(more[-1])
        versions[source] = _version(context, source)
        frames.append(
            pairs.select(*PAIR_COLUMNS)
            .withColumn("source", F.lit(source))
            .withColumn("miner_version", F.lit(versions[source]))
        )
    found = sum(ledger.rows_out for ledger in of_source)
    if found < context.config.gates.min_pairs:
        raise GateError(
            f"gates.min_pairs: {found} pairs were mined, at least {context.config.gates.min_pairs} "
            f"are asked for; from {log['events']} events of {log['users']} users on "
            f"{log['items']} items. Nothing was published. Lower the floors under [pairs], or look "
            "at what ingest set aside"
        )
    union = frames[0]
    for frame in frames[1:]:
        union = union.unionByName(frame)
    window_end, split_id = _window_end(context, log), _split_id(context)
    context.overwrite(
        item_pairs_schema.TABLE,
        union.withColumn("split_id", F.lit(split_id)).withColumn(
            "window_end", F.lit(window_end.isoformat()).cast("timestamp")
        ),
    )
    return _result(context, log, ledgers, of_source, sources, skew, versions, window_end, split_id)


def _mine_user2item(
    context: Context, events: DataFrame, kept: Keeper
) -> tuple[DataFrame, list[Ledger], dict[str, Any]]:
    from pyspark.sql import functions as F

    config = context.config.pairs.u2i
    skew: dict[str, Any] = {}
    known = unchanged = 0
    if config.incremental:
        found = find_changed(context, events, config, _counted_with(context, "u2i"), kept)
        rows, known, unchanged = found.mined, found.kept_targets, found.unchanged_targets
        context.say(f"User2Item: {found.users:,} users have events that changed")
        skew["users_with_changes"] = found.users
        of_users = context.table(u2i_days.TABLE.name)
    else:
        mined = mine_user2item(
            events.withColumn("is_target", F.lit(True)),
            context.table("id_vectors"),
            config.window,
            config.min_similarity,
        )
        rows = Mined(rows=kept(mined.rows), names=mined.names)
        of_users = user_pairs(rows.pairs)
    tally = rows.tally()
    looked_at = tally.pop("targets")
    if unchanged:
        tally["no_trigger_in_an_earlier_run"] = unchanged - known
    targets = Ledger(
        name="User2Item targets",
        rows_in=looked_at + unchanged,
        rows_out=rows.pairs.count() + known,
        dropped=tally,
    )
    pairs = kept(pair_user2item(of_users))
    capped = kept(cap_user2item(pairs, config.max_pairs_per_item))
    before, after = pairs.count(), capped.count()
    largest = pairs.groupBy("target").count().agg(F.max("count")).first()
    assert largest is not None
    skew["most_pairs_of_a_target"] = int(largest[0] or 0)
    ledger = Ledger(
        name="User2Item pairs",
        rows_in=before,
        rows_out=after,
        dropped={"over_cap": before - after},
    )
    return capped, [targets, ledger], skew


def _mine_swing(
    context: Context, events: DataFrame, kept: Keeper
) -> tuple[DataFrame, list[Ledger], dict[str, Any]]:
    config = context.config.pairs
    if not config.swing.incremental:
        return keep_pairs("Swing", mine_swing(events, config.swing, config.seed, kept), kept)
    scored_with = _counted_with(context, "swing")
    found = score_touched(context, events, config.swing, config.seed, scored_with, kept)
    context.say(f"Swing: {found.items:,} items have users whose lists changed")
    ledger = Ledger(
        name="Swing pairs",
        rows_in=found.tally.pop("scored") + found.kept_pairs,
        rows_out=found.pairs.count(),
        dropped=found.tally,
    )
    return found.pairs, [ledger], {**found.users.skew, "items_scored": found.items}


def _add_mass_lost(
    context: Context, source: str, events: DataFrame, skew: dict[str, Any], kept: Keeper
) -> None:
    """Where caps cut something, what that costs; else nothing was lost, and nothing is counted."""
    config = context.config.pairs
    if "users_capped" not in skew or not config.estimate_mass_lost:
        return
    lost: float | None = 0.0
    if skew["users_capped"] or skew["items_capped"]:
        if source == "swing":
            lost = swing_mass_lost(events, config.swing, config.seed, kept)
        else:
            lost = itemcf_mass_lost(events, config.itemcf, kept)
    skew["share_of_score_mass_lost"] = lost
    if lost:
        context.say(f"{_TITLES[source]}: caps lose {lost:.2%} of the score mass (1 % of triggers)")


def _filter(
    context: Context, source: str, pairs: DataFrame, events: DataFrame, mined: Ledger, kept: Keeper
) -> tuple[DataFrame, Ledger]:
    """What the filters leave, and the ledger with what they removed."""
    config = context.config.pairs.filters
    if not is_active(config, source):
        return pairs, mined
    vectors = texts = None
    if needs_features(config):
        vectors = _text_features(context)
    if config.judge:
        texts = context.table("items").select("item_idx", "text")
    left, removed = filter_pairs(
        pairs, source, config, events=events, keep=kept, vectors=vectors, texts=texts
    )
    total = sum(removed.values())
    shown = ", ".join(f"{n:,} {reason}" for reason, n in removed.items()) or "none"
    context.say(f"{_TITLES[source]} pairs removed by filters: {shown}")
    return left, replace(
        mined, rows_out=mined.rows_out - total, dropped={**mined.dropped, **removed}
    )


def _text_features(context: Context) -> DataFrame:
    """Text features of the filters' backbone, from the cache that alignment uses too."""
    from qarm.pipeline.features import update_features  # imports torch

    backbone = context.config.pairs.filters.text_backbone
    encoder = context.config.encoder.model_copy(update={"text_backbone": backbone})
    found = update_features(context, encoder, ["text"])
    rows = context.lake.read(found.ref).where("modality = 'text'")
    return rows.select("item_idx", "vector")


def _counted_with(context: Context, source: str) -> str:
    """Hash of what partial results of a source depend on beside the events."""
    config = context.config.pairs
    parts: dict[str, Any] = {
        "code": context.code_version,
        "settings": getattr(config, source).model_dump(mode="json"),
    }
    if source == "u2i":
        parts["vectors"] = context.ref("id_vectors").as_dict()
    if source == "swing":
        parts["seed"] = config.seed
    return fingerprint(parts)


def _version(context: Context, source: str) -> str:
    """Hash of what the source's pairs depend on beside the events."""
    config = context.config.pairs
    parts: dict[str, Any] = {
        "source": source,
        "code": context.code_version,
        "parameters": getattr(config, source).model_dump(mode="json"),
    }
    if is_active(config.filters, source):
        parts["filters"] = config.filters.model_dump(mode="json")
    if source == "u2i":
        own = {"als": config.id_vectors.model_dump(mode="json"), "seed": config.seed}
        external = context.is_external("id_vectors")
        parts["vectors"] = context.config.external.tables["id_vectors"] if external else own
    if source == "swing":
        parts["seed"] = config.seed
    return fingerprint(parts)


def _split_id(context: Context) -> str:
    if not context.is_external("event_splits") and "split_id" in context.facts("ingest"):
        return str(context.facts("ingest")["split_id"])
    row = context.table("event_splits").select("split_id").first()
    assert row is not None  # there are mining events, so there are rows
    return str(row["split_id"])


def _window_end(context: Context, log: dict[str, Any]) -> datetime:
    """End of the mining period: the split's, else the moment after the last event mined; not after
    ``--as-of``.

    Splits by user have no one end, and a split of the user's own is not described by ingest.
    """
    facts = context.facts("ingest")
    end = facts.get("mine_end" if facts.get("has_mine") else "train_end")
    if context.is_external("event_splits") or not end:
        end = log["end"]
    instants = [datetime.fromisoformat(each) for each in (end, log["end"])]
    latest_end = max(
        each.astimezone(UTC).replace(tzinfo=None) if each.tzinfo else each for each in instants
    )
    return min(latest_end, context.as_of or latest_end)


def _result(
    context: Context,
    log: dict[str, Any],
    ledgers: list[Ledger],
    of_source: list[Ledger],
    sources: list[str],
    skew: dict[str, Any],
    versions: dict[str, str],
    window_end: datetime,
    split_id: str,
) -> StageResult:
    """Counts of the committed table, beside what the miners said."""
    from pyspark.sql import functions as F

    written = context.table("item_pairs").select("trigger", "target", "source")
    either = written.select("source", F.explode(F.array("trigger", "target")).alias("item_idx"))
    covered = {
        row["source"]: row["items"]
        for row in either.groupBy("source")
        .agg(F.count_distinct("item_idx").alias("items"))
        .collect()
    }
    rows = {row["source"]: row["count"] for row in written.groupBy("source").count().collect()}
    dropped = {
        f"{source} {reason}": n
        for source, ledger in zip(sources, of_source, strict=True)
        for reason, n in ledger.dropped.items()
    }
    total = Ledger(
        name="item pairs",
        rows_in=sum(ledger.rows_in for ledger in of_source),
        rows_out=sum(rows.values()),
        dropped=dropped,
    )
    part = "+".join(_parts(context))
    metrics = []
    for source in sources:
        n = rows.get(source, 0)
        share = covered.get(source, 0) / log["items"]
        metrics += [
            Metric(metric="pairs", value=n, n=n, variant=source, part=part),
            Metric(metric="item_coverage", value=share, n=log["items"], variant=source, part=part),
        ]
    return StageResult(
        ledgers=[total, *ledgers],
        metrics=metrics,
        facts={
            "log": log,
            "split_id": split_id,
            "window_end": window_end.isoformat(),
            "miner_versions": versions,
            "skew": skew,
        },
    )
