"""Stage fit-codebooks: item_embeddings of items of the training part -> codebooks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qarm.codes.codebook import Codebook
from qarm.codes.drift import describe_fit, rows_to_hold_out
from qarm.codes.kinds import kmeans_sizes, last_kind
from qarm.codes.level_kind import LevelFit, rest_after
from qarm.codes.pools import Pool, choose_pool
from qarm.codes.refresh import Refit, begin, old_codes
from qarm.codes.residual import ResidualFit, fit_residual
from qarm.codes.sampling import sample_by_hash
from qarm.errors import GateError, InputError
from qarm.kernels.nearest import Floats
from qarm.lake import files, manifest
from qarm.lake.tables import TableRef
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline.code_inputs import training_events, vectors_to_fit_on
from schemas import codebooks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qarm.config.codes import Codes
    from qarm.pipeline.context import Context


def run(context: Context) -> StageResult:
    """Fit residual levels and choose anchors; the codebook is immutable from then on.

    Raises:
        InputError: no vectors, vectors of several encoders, or fewer items than centroids.
    """
    config = context.config.codes
    last_kind(config)  # an unusable setting stops the stage before the fit
    usable, counts, encoder = vectors_to_fit_on(context)
    rows = counts.get("fit", 0)
    pool = choose_pool(usable, rows, training_events(context), config)
    aside = rows_to_hold_out(rows, config)
    items, drawn = sample_by_hash(usable, rows, config.fit_rows + aside, config.seed)
    kept = len(items) - aside
    sample, held_out = drawn[:kept], drawn[kept:]
    _check_distinct(context, sample)
    refit = _begin_refit(context, items[:kept], sample, encoder)
    fitted, last = _fit(context, sample, encoder, refit)
    codebook = Codebook(
        levels=tuple(fitted.levels) if last is None else (*fitted.levels, last.table),
        last=None if last is None else last.coder,
        anchors=pool.vectors,
        anchor_items=pool.items,
        encoder_version=encoder,
        fit=_parameters(config, pool, fitted, refit),
    )
    changes: list[Metric] = []
    if refit is not None:
        codebook, changes, line = refit.finish(codebook)
        context.say(line)
    # In a folder of its id: a run that is repeated after a refresh may have another parent.
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
                    "beyond_fit_rows": max(0, rows - config.fit_rows - aside),
                },
            )
        ],
        metrics=_metrics(fitted, last) + changes,
        artifacts={
            "codebook": {"uri": uri, "version": codebook.codebook_id},
            **_record_for_drift(context, codebook, sample, held_out),
        },
        facts={
            "codebook_id": codebook.codebook_id,
            "encoder_version": encoder,
            **codebook.fit,
            **(refit.facts if refit is not None else {}),
        },
    )


def _check_distinct(context: Context, sample: Floats) -> None:
    """Say, or stop by gates.stop_on, if all vectors are equal: all items would get one code."""
    if len(sample) < 2 or not (sample == sample[0]).all():
        return
    text = (
        f"all {len(sample):,} vectors of the sample are equal, so that all items get the same code "
        "and errors are 0; check the encoder or the source of the vectors"
    )
    if "equal_vectors" in context.config.gates.stop_on:
        raise GateError(f"gates.stop_on: equal_vectors: {text}. Nothing was published")
    context.say(f"odd: {text}")


def _fit(
    context: Context, sample: Floats, encoder: str, refit: Refit | None
) -> tuple[ResidualFit, LevelFit | None]:
    """Residual k-means on the sample, and the last level where it is of another kind."""
    import torch

    config = context.config.codes
    sizes = kmeans_sizes(config)
    context.say(f"residual k-means {sizes} on {len(sample)} vectors")
    fitted = fit_residual(
        sample,
        sizes,
        iterations=config.rq_iterations,
        seed=config.seed,
        start=None if refit is None else refit.start,
        shrink=None if config.rq_shrink == "auto" else config.rq_shrink,
        threads=torch.get_num_threads(),
    )
    kind = last_kind(config)
    if kind is None:
        return fitted, None
    last = kind.fit(
        rest_after(sample, fitted.codes, fitted.levels),
        fitted.codes,
        config.rq_levels[-1],
        seed=config.seed,
        keep=None if refit is None else refit.coder(kind.name, encoder, config.rq_levels),
    )
    context.say(
        f"level {len(config.rq_levels)} of {len(config.rq_levels)}: {kind.name}, "
        f"{config.rq_levels[-1]} codes, mean squared rest {last.error:.4f}"
    )
    return fitted, last


def _parameters(
    config: Codes, pool: Pool, fitted: ResidualFit, refit: Refit | None
) -> dict[str, Any]:
    """Column ``fit`` of the codebook."""
    warm = refit is not None and refit.start is not None
    return {
        "rq_levels": config.rq_levels,
        "rq_last": config.rq_last,
        "rq_shrink": config.rq_shrink,
        "rq_shrunk_by": fitted.shrunk_by,
        "rq_iterations": config.rq_iterations,
        "rq_start": "parent" if warm else "k-means++",
        "vq_anchors": len(pool.items),
        "vq_k": config.vq_k,
        "vq_pool": pool.rule,
        "seed": config.seed,
        "rows": fitted.rows,
    }


def _begin_refit(
    context: Context, items: NDArray[np.int64], sample: Floats, encoder: str
) -> Refit | None:
    """A refit that keeps the numbers of the published codebook; None: there is none to keep to.

    A run that is repeated keeps to the same parent, not to what it has published itself.

    Raises:
        InputError: the parent's file is not what was published, or see ``old_codes``.
    """
    config = context.config.codes
    if config.refresh == "fresh":
        return None
    before = manifest.find(context.lake.root, context.stage)
    ids = manifest.pinned(context.lake.root, "semantic_ids")
    about = None
    if before is not None and before.run_id == context.run_id:
        if "parent" in before.facts:
            about = {"uri": before.facts["parent_uri"], "version": before.facts["parent"]}
        ids = TableRef(**before.inputs["semantic_ids"]) if "semantic_ids" in before.inputs else ids
    elif before is not None:
        about = before.artifacts["codebook"]
    if about is None:
        context.say("no codebook has been published, so this fit has no parent")
        return None
    parent = Codebook.from_bytes(files.open_file(about["uri"]).read(), about["uri"])
    if parent.codebook_id != about["version"]:
        raise InputError(
            f"{about['uri']} should be codebook {about['version']}, is {parent.codebook_id}; "
            "restore it, or set codes.refresh = 'fresh'"
        )
    table = None
    if ids is not None and parent.levels and encoder != parent.encoder_version:
        context.inputs["semantic_ids"] = ids
        table = context.lake.read(ids)
    old = old_codes(parent, items, sample, encoder, table)
    return begin(parent, sample, encoder, old, config, about["uri"])


def _record_for_drift(
    context: Context, codebook: Codebook, sample: Floats, held_out: Floats
) -> dict[str, dict[str, Any]]:
    """Write what the drift test compares with; the artifact, if anything was held out."""
    content = describe_fit(codebook, sample, held_out)
    if content is None:
        return {}
    uri = context.work_dir(codebook.codebook_id, "drift.json")
    files.write_text(uri, json.dumps(content))
    return {"drift": {"uri": uri, "version": codebook.codebook_id}}


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


def _metrics(fitted: ResidualFit, last: LevelFit | None) -> list[Metric]:
    """Reconstruction after each level, on the rows fitted on."""
    errors = [*fitted.errors, *([] if last is None else [last.error])]
    return [
        Metric(metric=f"rq_{name}_l{level}", value=value, n=fitted.rows, part="fit", variant="rq")
        for level, error in enumerate(errors, start=1)
        for name, value in (
            ("reconstruction_error", error),
            ("relative_error", error / fitted.mean_square),
        )
    ]
