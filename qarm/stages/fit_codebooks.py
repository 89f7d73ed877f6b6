"""Stage fit-codebooks: item_embeddings of items of the training part -> codebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook
from qarm.codes.drift import record, rows_to_hold_out
from qarm.codes.fit_table import fit_residual_table
from qarm.codes.fsq import Projection, rest_after
from qarm.codes.fsq_fit import FsqFit, fit_fsq
from qarm.codes.pools import Pool, choose_anchors
from qarm.codes.refresh import begin
from qarm.codes.residual import ResidualFit, fit_residual
from qarm.codes.sampling import sample_by_hash
from qarm.codes.seeding import seeding_rows
from qarm.codes.sources import KNOWN, LATER, encoder_versions, with_seen
from qarm.errors import InputError, plain_errors
from qarm.kernels.nearest import Floats
from qarm.lake import files
from qarm.lake.tables import TableRef
from qarm.ledger import Ledger, Metric, StageResult
from schemas import codebooks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config.codes import Codes
    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Fit residual levels and choose anchors; the codebook is frozen from here on.

    Raises:
        InputError: no vectors, vectors of several encoders, or fewer items than centroids.
    """
    config = context.config.codes
    usable, counts, version = usable_vectors(context)
    rows = counts.get("fit", 0)
    pool = choose_anchors(context, usable, rows)
    aside = rows_to_hold_out(rows, config)
    items, drawn = sample_by_hash(usable, rows, _sample_rows(config) + aside, config.seed)
    kept = len(items) - aside
    sample, held_out = drawn[:kept], drawn[kept:]
    refit = begin(context, items[:kept], sample, version)
    start = None if refit is None else refit.start
    fitted = _fit(context, _without(usable, items[kept:]), sample, start)
    last = None
    if config.rq_last == "fsq":
        same = None if refit is None else refit.projection(version, config.rq_levels)
        last = _fit_last(context, sample, fitted, same)
    codebook = Codebook(
        levels=tuple(fitted.levels) if last is None else (*fitted.levels, last.table),
        projection=None if last is None else last.projection,
        anchors=pool.vectors,
        anchor_items=pool.items,
        encoder_version=version,
        fit=_parameters(config, pool, fitted, warm=start is not None),
    )
    changes: list[Metric] = []
    if refit is not None:
        codebook, changes, line = refit.finish(codebook)
        context.say(line)
    # Under its id: a run that is made again after a refresh may have another parent.
    uri = context.work_dir(codebook.codebook_id, "codebook.safetensors")
    files.write_bytes(uri, codebook.to_bytes())
    _append(context, codebook)
    dropped = {reason: n for reason, n in sorted(counts.items()) if reason != "fit"}
    return StageResult(
        ledgers=[
            Ledger(
                name="item vectors",
                rows_in=sum(counts.values()),
                rows_out=fitted.rows,
                dropped={
                    **dropped,
                    **({"held_out_for_drift": aside} if aside else {}),
                    "beyond_fit_rows": rows - aside - fitted.rows,
                },
            )
        ],
        metrics=_metrics(fitted, last) + changes,
        artifacts={
            "codebook": {"uri": uri, "version": codebook.codebook_id},
            **record(context, codebook, sample, held_out),
        },
        facts={
            "codebook_id": codebook.codebook_id,
            "encoder_version": version,
            **codebook.fit,
            **(refit.facts if refit is not None else {}),
        },
    )


def _parameters(config: Codes, pool: Pool, fitted: ResidualFit, *, warm: bool) -> dict[str, Any]:
    """What the codebook says of its fit; ``warm``: it started from the parent codebook."""
    return {
        "rq_levels": config.rq_levels,
        "rq_last": config.rq_last,
        "rq_shrink": config.rq_shrink,
        "rq_shrunk_by": fitted.shrunk_by,
        "rq_iterations": config.rq_iterations,
        "rq_start": "parent" if warm else config.rq_init,
        "rq_normalise": config.rq_normalise,
        "rq_balanced": config.rq_balanced,
        "fit_on": config.fit_on,
        "vq_anchors": len(pool.items),
        "vq_k": config.vq_k,
        "vq_pool": pool.rule,
        "seed": config.seed,
        "rows": fitted.rows,
    }


def _without(usable: DataFrame, held_out: NDArray[np.int64]) -> DataFrame:
    """``usable`` less the items held out: at most ``drift.MOST``, so that they are broadcast."""
    from pyspark.sql import functions as F

    if len(held_out) == 0:
        return usable
    schema = "item_idx bigint"
    aside = usable.sparkSession.createDataFrame([(int(i),) for i in held_out], schema)
    return usable.join(F.broadcast(aside), "item_idx", "left_anti")


def _fit_last(
    context: Context, sample: Floats, fitted: ResidualFit, same: Projection | None
) -> FsqFit:
    """The last level by finite scalar quantisation of what the others have left."""
    config = context.config.codes
    rest = rest_after(sample, fitted.codes, fitted.levels)
    last = fit_fsq(rest, fitted.codes, config.rq_levels[-1], seed=config.seed, projection=same)
    context.say(
        f"level {len(config.rq_levels)} of {len(config.rq_levels)}: FSQ of {last.projection.bits} "
        f"bits, mean squared rest {last.error:.4f}"
    )
    return last


def usable_vectors(context: Context) -> tuple[DataFrame, dict[str, int], str]:
    """What codebooks are fitted on: items of the training part that have content.

    Returns:
        (item_id, item_idx, vector); rows of each use, ``fit`` or why not; the encoder.
    """
    version = _one_encoder(context)
    vectors, counts = _with_use(context, version)
    return vectors.where("use = 'fit'").drop("use"), counts, version


def _one_encoder(context: Context) -> str:
    """The encoder whose vectors are fitted on."""
    versions = encoder_versions(context)
    if len(versions) > 1:
        raise InputError(
            f"item_embeddings has vectors of {len(versions)} encoders: {versions}; a codebook is "
            "fitted on one. Remove the others, or bring the one you want under [external.tables] "
            "item_embeddings"
        )
    return next(iter(versions))


def _with_use(context: Context, version: str) -> tuple[DataFrame, dict[str, int]]:
    """(item_id, item_idx, vector, use) and rows of each use: fit, or why not."""
    from pyspark.sql import functions as F

    vectors = context.table("item_embeddings").where(F.col("encoder_version") == version)
    use = (
        # A zero vector is the absence of content; as an anchor it would be near to everything.
        F.when(F.forall("vector", lambda x: x == 0), "zero_vector")
        .when(F.col("seen") == KNOWN, "fit")
        .when(F.col("seen") == LATER, "after_train_end")
        .otherwise("no_event")
    )
    marked = with_seen(context, vectors.select("item_id", "item_idx", "vector"))
    marked = marked.withColumn("use", use).drop("seen")
    rows = marked.groupBy("use").count().collect()
    return marked, {row["use"]: int(row["count"]) for row in rows}


def _sample_rows(config: Codes) -> int:
    """Most vectors on the driver: to fit (FSQ) on, or to draw first centroids from."""
    if config.fit_on == "sample" or config.rq_last == "fsq":
        return config.fit_rows
    return seeding_rows(max(config.rq_levels))


def _fit(
    context: Context, usable: DataFrame, sample: Floats, start: list[Floats] | None
) -> ResidualFit:
    """Residual k-means on the sample, or on all of ``usable`` where ``codes.fit_on`` says so."""
    import torch

    config = context.config.codes
    sizes = config.rq_levels[:-1] if config.rq_last == "fsq" else config.rq_levels
    settings: dict[str, Any] = {
        "iterations": config.rq_iterations,
        "seed": config.seed,
        "start": start,
        "init": config.rq_init,
        "normalise": config.rq_normalise,
        "balance": config.rq_balanced,
        "shrink": None if config.rq_shrink == "auto" else config.rq_shrink,
        "say": context.say,
    }
    if config.fit_on == "table":
        context.say(f"residual k-means {sizes} on all vectors")
        with plain_errors():
            return fit_residual_table(usable, sizes, seeds=sample, **settings)
    context.say(f"residual k-means {sizes} on {len(sample)} vectors")
    threads = config.fit_threads or torch.get_num_threads()
    return fit_residual(sample, sizes, threads=threads, **settings)


def _append(context: Context, codebook: Codebook) -> None:
    """Add the codebook to the table unless it is there; older ones stay."""
    from pyspark.sql import functions as F

    table = codebooks.TABLE
    lake = context.lake
    if (version := lake.version(table.name)) >= 0:
        there = TableRef(table.name, lake.path(table.name), version)
        same = F.col("codebook_id") == codebook.codebook_id
        if not lake.read(there).where(same).isEmpty():
            context.outputs[table.name] = there
            return
    context.merge(
        table,
        context.spark.createDataFrame(codebook.to_rows()),
        codebook_id=codebook.codebook_id,
        encoder_version=codebook.encoder_version,
    )


def _metrics(fitted: ResidualFit, last: FsqFit | None) -> list[Metric]:
    """Reconstruction after each level, on the rows fitted on."""
    found = []
    of_last = [] if last is None else [last.error]
    for level, error in enumerate([*fitted.errors, *of_last], start=1):
        relative = error / fitted.mean_square
        for name, value in (("reconstruction_error", error), ("relative_error", relative)):
            found.append(
                Metric(
                    metric=f"rq_{name}_l{level}",
                    value=value,
                    n=fitted.rows,
                    part="fit",
                    variant="rq",
                )
            )
    return found
