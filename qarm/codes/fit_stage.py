"""Stage fit-codebooks: item_embeddings of items of the training part -> codebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.codes.fsq import rest_after
from qarm.codes.fsq_fit import FsqFit, fit_fsq
from qarm.codes.nearest import Floats
from qarm.codes.residual import ResidualFit, fit_residual
from qarm.codes.sources import KNOWN, LATER, encoder_versions, with_seen
from qarm.errors import InputError
from qarm.ingest.parts import training_parts
from qarm.lake import files
from qarm.lake.tables import TableRef
from qarm.pipeline.result import Ledger, Metric, StageResult
from schemas import codebooks

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Fit residual k-means and choose anchors; the codebook is frozen from here on.

    Raises:
        InputError: no vectors, vectors of several encoders, or fewer items than centroids.
    """
    import torch

    config = context.config.codes
    version = _one_encoder(context)
    vectors, counts = _with_use(context, version)
    usable = vectors.where("use = 'fit'").drop("use")
    anchor_items, anchors, pool = choose_anchors(context, usable)
    sample, beyond = _sample(usable, counts.get("fit", 0), config.fit_rows, config.seed)
    fsq = config.rq_last == "fsq"
    context.say(f"residual k-means {config.rq_levels} on {len(sample)} vectors")
    fitted = fit_residual(
        sample,
        config.rq_levels[:-1] if fsq else config.rq_levels,
        iterations=config.rq_iterations,
        seed=config.seed,
        shrink=config.rq_shrink,
        threads=torch.get_num_threads(),
        say=context.say,
    )
    last = _fit_last(context, sample, fitted) if fsq else None
    parameters: dict[str, Any] = {
        "rq_levels": config.rq_levels,
        **({"rq_last": config.rq_last} if fsq else {}),
        **({"rq_shrink": config.rq_shrink} if config.rq_shrink else {}),
        "rq_iterations": config.rq_iterations,
        "vq_anchors": len(anchors),
        "vq_k": config.vq_k,
        "vq_pool": pool,
        "seed": config.seed,
        "rows": len(sample),
    }
    codebook = Codebook(
        levels=(*fitted.levels, *([last.table] if last else [])),
        projection=last.projection if last else None,
        anchors=anchors,
        anchor_items=anchor_items,
        encoder_version=version,
        fit=parameters,
    )
    uri = files.join(context.work_dir(), "codebook.safetensors")
    files.write_bytes(uri, codebook.to_bytes())
    _append(context, codebook)
    dropped = {reason: n for reason, n in sorted(counts.items()) if reason != "fit"}
    return StageResult(
        ledgers=[
            Ledger(
                name="item vectors",
                rows_in=sum(counts.values()),
                rows_out=len(sample),
                dropped={**dropped, "beyond_fit_rows": beyond},
            )
        ],
        metrics=_metrics(sample, [*fitted.errors, *([last.error] if last else [])]),
        artifacts={"codebook": {"uri": uri, "version": codebook.codebook_id}},
        facts={"codebook_id": codebook.codebook_id, "encoder_version": version, **parameters},
    )


def _fit_last(context: Context, sample: Floats, fitted: ResidualFit) -> FsqFit:
    """The last level by finite scalar quantisation of what the others have left."""
    config = context.config.codes
    rest = rest_after(sample, fitted.codes, fitted.levels)
    last = fit_fsq(rest, fitted.codes, config.rq_levels[-1], seed=config.seed)
    context.say(
        f"level {len(config.rq_levels)} of {len(config.rq_levels)}: FSQ of {last.projection.bits} "
        f"bits, mean squared rest {last.error:.4f}"
    )
    return last


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


def _hash(seed: int) -> Column:
    from pyspark.sql import functions as F

    return F.xxhash64(F.col("item_id"), F.lit(seed))


def choose_anchors(context: Context, usable: DataFrame) -> tuple[NDArray[np.int64], Floats, str]:
    """Anchors, numbered in the order of the pool rule.

    popular: most events in the training parts first, ties by hash; random: smallest hash first,
    also where there are no events.

    Returns:
        (N,) item_idx; (N, d) vectors; the rule that was followed.
    """
    from pyspark.sql import functions as F

    config = context.config.codes
    order = [_hash(config.seed).asc(), F.col("item_idx").asc()]
    rule: str = config.vq_pool
    if rule == "popular" and context.find("event_splits") is None:
        context.say("no events, so anchors are drawn at random by hash")
        rule = "random"
    if rule == "popular":
        parts = training_parts(context.facts("ingest"))
        events = (
            context.table("event_splits")
            .where(F.col("part").isin(parts))
            .groupBy("item_idx")
            .agg(F.count("*").alias("events"))
        )
        usable = usable.join(events, "item_idx", "left").fillna(0, "events")
        order.insert(0, F.col("events").desc())
    rows = usable.orderBy(*order).limit(config.vq_anchors).select("item_idx", "vector").toArrow()
    if rows.num_rows < config.vq_anchors:
        context.say(f"{rows.num_rows} anchors: no more items ({config.vq_anchors} asked for)")
    if rows.num_rows < config.vq_k:
        raise InputError(
            f"codes.vq_k = {config.vq_k} needs as many anchors, but only {rows.num_rows} items are "
            "in the training part and have content; lower codes.vq_k"
        )
    items = rows["item_idx"].to_numpy().astype(np.int64)
    return items, lists_to_matrix(rows["vector"], "item_embeddings"), rule


def _sample(usable: DataFrame, rows: int, most: int, seed: int) -> tuple[Floats, int]:
    """At most ``most`` vectors, those of smallest hash, in the order of the hash; and the rest."""
    from pyspark.sql import functions as F

    if rows == 0:
        raise InputError(
            "no item has a vector, content and an event of the training part; codebooks need some"
        )
    hashed = usable.withColumn("hash", _hash(seed))
    if rows > most:
        # A bound on the hash leaves about ``most`` rows, so that no more need be sorted. Four
        # standard deviations more, so that there are hardly ever fewer.
        share = (most + 4 * most**0.5) / rows
        if share < 1:
            hashed = hashed.where(F.col("hash") < int((share - 0.5) * 2.0**64))
    table = hashed.select("hash", "item_idx", "vector").toArrow()
    order = np.lexsort((table["item_idx"].to_numpy(), table["hash"].to_numpy()))[:most]
    matrix = lists_to_matrix(table["vector"], "item_embeddings")[order]
    return matrix, rows - len(matrix)


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


def _metrics(sample: Floats, errors: list[float]) -> list[Metric]:
    """Reconstruction after each level, on the rows fitted on."""
    squares = float((sample.astype(np.float64) ** 2).sum(axis=1).mean())
    found = []
    for level, error in enumerate(errors, start=1):
        for name, value in (("reconstruction_error", error), ("relative_error", error / squares)):
            found.append(
                Metric(
                    metric=f"rq_{name}_l{level}",
                    value=value,
                    n=len(sample),
                    part="fit",
                    variant="rq",
                )
            )
    return found
