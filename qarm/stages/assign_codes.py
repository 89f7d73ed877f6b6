"""Stage assign-codes: vectors and the frozen codebook -> semantic_ids, only what has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qarm.codes.anchor_index import recall
from qarm.codes.codebook import Codebook, lists_to_matrix, matrix_to_lists
from qarm.codes.drift import check_drift
from qarm.codes.recode import TABLE, Plan, plan_recode
from qarm.codes.resolve import measure_resolved, resolve
from qarm.codes.sources import encoder_versions, load_codebook
from qarm.errors import InputError, plain_errors
from qarm.ingest.times import micros_of
from qarm.lake.caching import Keeper
from qarm.lake.scan import map_files
from qarm.ledger import Ledger, Metric, StageResult

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

_CODED = (
    "item_id string, item_idx bigint, content_hash string, residual_error float, "
    "rq array<int>, vq array<int>"
)
_FILE_COLUMNS = ("item_id", "item_idx", "content_hash", "vector", "encoder_version")
_RECALL_ROWS = 2000
"""Items that the recall of the approximate index is measured on."""


def run(context: Context) -> StageResult:
    """Code what is new or changed; removed items leave; the rest is not touched.

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
    plan = plan_recode(
        context,
        codebook,
        encoder,
        vectors,
        vq_k,
        rows=versions[encoder],
        keep_older=settings.keep_old_codes,
        resolved=capacity > 0,
    )
    broadcast = context.spark.sparkContext.broadcast(codebook)
    exact = len(codebook.anchors) <= settings.vq_exact_anchors
    probes = None if exact else settings.vq_index_probes
    moved: list[Ledger] = []
    artifacts = {}
    with plain_errors(), Keeper() as keep:
        if _may_read_files(context, plan, versions[encoder]):
            coder = partial(_code, broadcast, vq_k, probes, encoder)
            coded = map_files(
                context.lake, context.ref("item_embeddings"), _FILE_COLUMNS, coder, _CODED
            )
        else:
            coded = assign_codes(plan.todo, broadcast, vq_k, probes)
        if capacity and not plan.idle:
            published = _published(context, plan, codebook)
            coded, ledger = resolve(
                coded,
                vectors,
                published,
                broadcast,
                capacity=capacity,
                encoder=encoder,
                keep=keep,
            )
            moved = [ledger]
        _write(context, codebook, plan, coded, encoder)
        table = context.lake.read(context.outputs[TABLE.name])
        counts = _committed(table, codebook, whole=plan.table is None or plan.replaces_all)
        rows_out = counts.get(codebook.codebook_id, 0)
        metrics: list[Metric] = []
        if rows_out:
            ours = table.where(F.col("codebook_id") == codebook.codebook_id)
            if probes is not None:
                metrics.append(_index_recall(codebook, vectors, vq_k, probes))
            if capacity:
                figures, artifacts["unresolved"] = measure_resolved(context, ours)
                metrics += figures
            metrics += check_drift(context, codebook, vectors, ours)
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
            "codebook_id": codebook.codebook_id,
            "codebook_content": codebook.content_hash,
            "encoder_version": encoder,
            "rq_sizes": codebook.sizes,
            "vq_anchors": len(codebook.anchors),
            "vq_k": vq_k,
            "new": plan.new,
            "changed": plan.changed,
            "unchanged": plan.same,
            "removed": plan.removed,
            "older_rows": plan.others - plan.older,
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


def assign_codes(
    vectors: DataFrame, codebook: Broadcast[Codebook], vq_k: int, probes: int | None = None
) -> DataFrame:
    """Codes of ``vectors`` (item_id, item_idx, content_hash, vector): all but ``vector``, and
    residual_error, rq and vq. Arrow in, Arrow out; the codebook goes to each worker once and is
    made ready once a process. With ``probes``, vq is by the approximate index."""
    coder = partial(_code, codebook, vq_k, probes, None)
    return vectors.select("item_id", "item_idx", "content_hash", "vector").mapInArrow(coder, _CODED)


def _may_read_files(context: Context, plan: Plan, rows: int) -> bool:
    """Whether tasks read the files of item_embeddings themselves: all vectors are to be coded, and
    the table is ours, so that its files have the columns of its schema."""
    everything = plan.new + plan.changed == rows
    ours = not context.is_external("item_embeddings")
    return context.config.codes.read_files and everything and ours


def _code(
    broadcast: Broadcast[Codebook],
    vq_k: int,
    probes: int | None,
    encoder: str | None,
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Spark task: rows of ``_CODED``. With ``encoder``, of the rows of that encoder alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    codebook = broadcast.value
    for batch in batches:
        if encoder is not None:
            batch = batch.filter(pc.equal(batch["encoder_version"], encoder))
        if batch.num_rows == 0:
            continue
        x = lists_to_matrix(batch["vector"], "item_embeddings").astype(np.float32, copy=False)
        rq, left = codebook.rq(x)
        vq = codebook.vq(x, vq_k, probes=probes)
        yield pa.RecordBatch.from_arrays(
            [
                batch["item_id"],
                batch["item_idx"],
                batch["content_hash"],
                pa.array(left),
                matrix_to_lists(rq),
                matrix_to_lists(vq),
            ],
            names=["item_id", "item_idx", "content_hash", "residual_error", "rq", "vq"],
        )


def _write(
    context: Context, codebook: Codebook, plan: Plan, coded: DataFrame, encoder: str
) -> None:
    """Commit what the plan asks for: nothing, all rows, or a MERGE of the rows concerned."""
    from pyspark.sql import functions as F

    context.say(
        f"{plan.new} new and {plan.changed} changed items to code, {plan.same} unchanged, "
        f"{plan.removed + plan.older} rows leave ({plan.found_by})"
    )
    if plan.idle:
        assert plan.table is not None
        context.outputs[TABLE.name] = plan.table
        return
    rows = coded.withColumns(
        {
            "codebook_id": F.lit(codebook.codebook_id),
            "encoder_version": F.lit(encoder),
            "assigned_at": F.timestamp_micros(F.lit(micros_of(context.now))),
        }
    )
    about = {"codebook_id": codebook.codebook_id, "encoder_version": encoder}
    if plan.replaces_all:
        context.overwrite(TABLE, rows, **about)
    else:
        context.merge(TABLE, rows, update_when="true", leave=plan.leave, **about)


def _committed(table: DataFrame, codebook: Codebook, *, whole: bool) -> dict[str, int]:
    """Codebook -> rows of the committed table; ``whole``: this run has written all of it, and the
    number that each file's writer counted, which Delta's log has, will do."""
    if whole:
        return {codebook.codebook_id: table.count()}
    return {r[0]: int(r[1]) for r in table.groupBy("codebook_id").count().collect()}


def _index_recall(codebook: Codebook, vectors: DataFrame, vq_k: int, probes: int) -> Metric:
    """Recall of the approximate index on the items of smallest hash."""
    from pyspark.sql import functions as F

    drawn = vectors.orderBy(F.xxhash64("item_id"), "item_id").limit(_RECALL_ROWS)
    x = lists_to_matrix(drawn.select("vector").toArrow()["vector"], "item_embeddings")
    value = recall(codebook.anchor_index(probes), x.astype(np.float32, copy=False), vq_k)
    return Metric(metric="vq_index_recall", value=value, n=len(x), variant="vq")


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
