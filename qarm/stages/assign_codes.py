"""Stage assign-codes: vectors and the frozen codebook -> semantic_ids, only what has changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qarm.codes import drift
from qarm.codes.assign import assign_codes, assign_files, index_recall
from qarm.codes.codebook import Codebook
from qarm.codes.recode import TABLE, Plan, Target, plan_recode
from qarm.codes.resolve import measure_resolved, resolve, unresolved
from qarm.errors import InputError, plain_errors
from qarm.ingest.times import micros_of
from qarm.lake import files, manifest
from qarm.lake.caching import Keeper
from qarm.lake.tables import TableRef
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline.code_inputs import encoder_versions, load_codebook

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Code what is new or changed; removed items leave; all other rows stay as they are.

    Raises:
        InputError: the codebook is of another encoder or dimension, has changed under its id, or
            has fewer anchors than a VQ code is long; a vector has NaN.
    """
    from pyspark.sql import functions as F

    codebook = load_codebook(context)
    _check_frozen(context, codebook)
    vq_k = _vq_length(context, codebook)
    versions = encoder_versions(context)
    encoder = _encoder(codebook, versions)
    vectors = context.table("item_embeddings").where(F.col("encoder_version") == encoder)
    settings = context.config.codes
    capacity = settings.resolve_capacity if codebook.levels else 0
    target = Target(
        codebook=codebook,
        encoder=encoder,
        vectors=vectors,
        rows=versions[encoder],
        vq_k=vq_k,
        resolved=capacity > 0,
    )
    last = manifest.find(context.lake.root, context.stage)
    plan = plan_recode(context.lake, target, context.ref("item_embeddings"), last)
    exact = len(codebook.anchors) <= settings.vq_exact_anchors
    probes = None if exact else settings.vq_index_probes
    metrics: list[Metric] = []
    artifacts = {}
    with plain_errors(), Keeper() as keep:
        coded, moved = _code(context, target, plan, probes, keep)
        _write(context, target, plan, coded)
        table = context.lake.read(context.outputs[TABLE.name])
        counts = _committed(table, codebook, whole=plan.table is None or plan.replaces_all)
        rows_out = counts.get(codebook.codebook_id, 0)
        if rows_out:
            ours = table.where(F.col("codebook_id") == codebook.codebook_id)
            if probes is not None:
                value, n = index_recall(codebook, vectors, vq_k, probes)
                metrics.append(Metric(metric="vq_index_recall", value=value, n=n, variant="vq"))
            if capacity:
                figures, artifacts["unresolved"] = _measure_resolved(context, ours)
                metrics += figures
            metrics += _check_drift(context, codebook, vectors, ours)
    others = {f"encoder {v}": n for v, n in sorted(versions.items()) if v != encoder}
    return StageResult(
        ledgers=[
            Ledger(
                name="item vectors",
                rows_in=sum(versions.values()),
                rows_out=rows_out,
                dropped=others,
            ),
            Ledger(
                name="semantic ids",
                rows_in=plan.before,
                rows_out=sum(counts.values()),
                added={"new_item": plan.new},
                dropped={"removed_item": plan.removed, "older_codebook": plan.older},
            ),
            *moved,
        ],
        metrics=metrics,
        artifacts=artifacts,
        facts={
            **target.facts,
            "rq_sizes": codebook.sizes,
            "vq_anchors": len(codebook.anchors),
            "new": plan.new,
            "changed": plan.changed,
            "unchanged": plan.same,
            "removed": plan.removed,
            "found_by": plan.found_by,
            "resolved": capacity > 0,
        },
    )


def _published(context: Context, plan: Plan, codebook: Codebook) -> DataFrame | None:
    """Rows of this codebook that the table has and that do not leave."""
    from pyspark.sql import functions as F

    if plan.table is None:
        return None
    ours = context.lake.read(plan.table).where(F.col("codebook_id") == codebook.codebook_id)
    if plan.leave is None:
        return ours
    return ours.join(plan.leave, ["item_id", "codebook_id"], "left_anti")


def _code(
    context: Context, target: Target, plan: Plan, probes: int | None, keep: Keeper
) -> tuple[DataFrame, list[Ledger]]:
    """Codes of what the plan asks for, with rq_resolved if it is set; the resolver's ledger."""
    broadcast = context.spark.sparkContext.broadcast(target.codebook)
    if plan.new + plan.changed == target.rows and not context.is_external("item_embeddings"):
        coded = assign_files(
            context.lake,
            context.ref("item_embeddings"),
            target.encoder,
            broadcast,
            target.vq_k,
            probes,
        )
    else:
        coded = assign_codes(plan.todo, broadcast, target.vq_k, probes)
    if not target.resolved or plan.idle:
        return coded, []
    coded, ledger = resolve(
        coded,
        target.vectors,
        _published(context, plan, target.codebook),
        broadcast,
        capacity=context.config.codes.resolve_capacity,
        encoder=target.encoder,
        keep=keep,
    )
    return coded, [ledger]


def _write(context: Context, target: Target, plan: Plan, coded: DataFrame) -> None:
    """Commit what the plan asks for: nothing, all rows, or a MERGE of the rows that differ."""
    from pyspark.sql import functions as F

    context.say(
        f"{plan.new} new and {plan.changed} changed items to code, {plan.same} unchanged, "
        f"{plan.removed + plan.older} rows leave ({plan.found_by})"
    )
    if plan.idle:
        assert plan.table is not None
        context.outputs[TABLE.name] = plan.table
        return
    about: dict[str, Any] = {
        "codebook_id": target.codebook.codebook_id,
        "encoder_version": target.encoder,
    }
    rows = coded.withColumns(
        {
            **{name: F.lit(value) for name, value in about.items()},
            "assigned_at": F.timestamp_micros(F.lit(micros_of(context.now))),
        }
    )
    if plan.replaces_all:
        context.overwrite(TABLE, rows, **about)
    else:
        context.merge(TABLE, rows, update_when="true", leave=plan.leave, **about)


def _committed(table: DataFrame, codebook: Codebook, *, whole: bool) -> dict[str, int]:
    """Codebook -> rows of the committed table; ``whole``: this run has written all of it, and the
    number that each file's writer counted, which Delta's log has, will do.
    """
    if whole:
        return {codebook.codebook_id: table.count()}
    return {r[0]: int(r[1]) for r in table.groupBy("codebook_id").count().collect()}


def _measure_resolved(context: Context, ids: DataFrame) -> tuple[list[Metric], dict[str, str]]:
    """Rates of ``rq_resolved``, and the artifact: Parquet rows as ``unresolved`` gives them."""
    uri = context.work_dir("unresolved.parquet")
    unresolved(ids, context.config.codes.resolve_capacity).write.mode("overwrite").parquet(uri)
    without_room = context.spark.read.parquet(uri).count()
    metrics = measure_resolved(ids, without_room)
    moved = next(int(m.value) for m in metrics if m.metric == "resolver_moved")
    context.say(
        f"{moved} of {metrics[0].n} items have another code than their plain one; the prefixes of "
        f"{without_room} are full" + f" ({uri})" * bool(without_room)
    )
    return metrics, {"uri": uri, "version": context.run_id}


def _check_drift(
    context: Context, codebook: Codebook, vectors: DataFrame, ids: DataFrame
) -> list[Metric]:
    """Figures of the drift test; none without items held out at the fit, or without new ones."""
    fit = manifest.find(context.lake.root, "fit-codebooks")
    about = fit.artifacts.get("drift", {}) if fit is not None else {}
    if fit is None or about.get("version") != codebook.codebook_id:
        return []  # the user's own codebook, or too few items to hold any out
    then = TableRef(**fit.inputs["item_embeddings"])
    if then == context.ref("item_embeddings"):
        return []
    new, read = drift.sample_new(context.lake, then, fit.facts["encoder_version"], vectors, ids)
    if not read:
        context.say(
            f"version {then.version} of item_embeddings, which the codebook was fitted on, cannot "
            "be read any more; items coded later than the first ones count as new"
        )
    limits = context.config.codes
    if len(new) < drift.MIN_ITEMS:
        context.say(
            f"{len(new)} new items since the fit: too few to judge whether a refit is due "
            f"(at least {drift.MIN_ITEMS})"
        )
        return []
    verdict = drift.check_drift(
        json.loads(files.read_text(about["uri"])), codebook, new, ids, limits
    )
    if verdict.reasons:
        context.say(f"refit is due: {'; '.join(verdict.reasons)}")
    else:
        context.say(f"no refit is due: {len(new)} new items are like those held out at the fit")
    return verdict.metrics


def _check_frozen(context: Context, codebook: Codebook) -> None:
    """An id whose contents have changed since the last run is refused."""
    before = context.facts(context.stage)
    if (
        before.get("codebook_id") == codebook.codebook_id
        and before.get("codebook_content") != codebook.content_hash
    ):
        raise InputError(
            f"codebook {codebook.codebook_id} has other contents than when it was last used; a "
            "codebook is immutable: give the changed one an id of its own (column codebook_id)"
        )


def _vq_length(context: Context, codebook: Codebook) -> int:
    """Length of VQ codes: as the codebook says, else the configuration; 0 without anchors."""
    n = len(codebook.anchors)
    k = int(codebook.fit.get("vq_k", context.config.codes.vq_k))
    if 0 < n < k:
        raise InputError(
            f"codes.vq_k = {k} needs at least as many anchors, codebook {codebook.codebook_id} has "
            f"{n}; lower codes.vq_k"
        )
    return k if n else 0


def _encoder(codebook: Codebook, versions: dict[str, int]) -> str:
    """The encoder whose vectors are coded."""
    wanted = codebook.encoder_version
    if wanted in versions:
        return wanted
    if not wanted and len(versions) == 1:  # the user's own codebook, which does not say
        return next(iter(versions))
    raise InputError(
        f"codebook {codebook.codebook_id} is of encoder {wanted or '(not named)'}, "
        f"item_embeddings has vectors of {sorted(versions)}; run fit-codebooks again, or bring "
        "vectors and codebook of one encoder (column encoder_version)"
    )
