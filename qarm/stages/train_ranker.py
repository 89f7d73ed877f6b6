"""Stage train-ranker: ranking_samples + codes -> a ranker of each variant, and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from qarm.config import fingerprint
from qarm.errors import InputError, RowsLostError
from qarm.lake import files, manifest
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline.code_inputs import load_codebook
from qarm.ranking import floor
from qarm.ranking.dense import dense_statistics
from qarm.ranking.item_table import ItemSource
from qarm.ranking.model import CONTENT
from qarm.ranking.ranker_task import RankerResult, RankerTask, Trial
from qarm.training.launch import launch
from qarm.training.settings import run_config
from schemas import predictions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

PARTS = ("train", "valid", "test")
_LABEL = "label_"


def run(context: Context) -> StageResult:
    """Train every variant in one launch of the ranks, score valid and test, add the floor.

    Raises:
        InputError: a part without samples, vectors or codes of several versions.
        TrainingError: a rank failed, or the validation part cannot choose an epoch.
        RowsLostError: a sample was scored twice, or not at all.
    """
    config = context.config
    samples = context.table("ranking_samples")
    labels = _labels(context, samples)
    task = _task(context, samples, labels)
    for folder in (task.scores, task.models):
        files.remove_tree(folder)
    result = launch(
        "qarm.ranking.trainer:train",
        task,
        RankerResult,
        config.training,
        work_dir=context.work_dir("ranks"),
        spark=context.spark,
        shards=config.loader.shards,
    )
    for line in _shown(result.trials):
        context.say(line)
    held_out = samples.where("part IN ('valid', 'test')")
    expected = held_out.count()
    models = len(config.ranker.variants) * len(config.ranker.seeds)
    scores = context.spark.read.parquet(task.scores)
    _check_scores(scores, expected, models)
    rows = _ranker_rows(scores, held_out, labels).unionByName(
        _floor_rows(samples, held_out, labels, config.ranker.seeds)
    )
    ref = context.overwrite(predictions.TABLE, rows, labels=labels)
    committed = context.lake.read(ref).count()
    for folder in (task.scores, context.work_dir("checkpoints")):
        files.remove_tree(folder)
    versions = {name: model.sha256 for name, model in sorted(result.models.items())}
    each = len(labels) * (models + len(config.ranker.seeds))
    return StageResult(
        ledgers=[
            Ledger(
                name="held-out samples",
                rows_in=expected,
                rows_out=committed,
                added={"further_models_and_heads": expected * (each - 1)},
            )
        ],
        metrics=[
            Metric(
                metric="selection_auc",
                value=trial.auc,
                n=_rows(samples, "valid"),
                part="valid",
                variant=trial.variant,
                seed=trial.seed,
            )
            for trial in result.trials
            if trial.chosen
        ],
        artifacts={
            "ranker": {
                "uri": task.models,
                "version": fingerprint(versions),
                "models": {name: asdict(model) for name, model in result.models.items()},
            }
        },
        facts={
            "labels": labels,
            "variants": list(config.ranker.variants),
            "seeds": list(config.ranker.seeds),
            "trials": [trial.repeatable() for trial in result.trials],
            "ranks": config.training.ranks,
            "rows_per_rank": result.rows_per_rank,
            "encoder_version": task.items.encoder_version,
            "codebook_id": task.items.codebook_id,
        },
    )


def _labels(context: Context, samples: DataFrame) -> list[str]:
    """Labels that the samples have, the positive one first."""
    found = [c.removeprefix(_LABEL) for c in samples.columns if c.startswith(_LABEL)]
    first = (context.facts("ingest").get("labels") or [context.config.log.positive])[0]
    return sorted(found, key=lambda name: name != first)


def _task(context: Context, samples: DataFrame, labels: Sequence[str]) -> RankerTask:
    """What the ranks should train, and on which files."""
    from pyspark.sql import functions as F

    config = context.config.ranker
    live = context.live_files("ranking_samples")
    by_part = {part: [f for f in live if f"/part={part}/" in f] for part in PARTS}
    if missing := [part for part in PARTS if not by_part[part]]:
        raise InputError(
            f"ranking_samples has no rows of part {', '.join(missing)}; a ranker needs train, "
            "valid (to choose its epoch) and test. Set split.valid (global, per_user), "
            "split.valid_events (leave_last_n) or split.valid_share (column, files) above 0, name "
            "a test part, and check the limits in [samples]"
        )
    row = samples.agg(
        F.max("user_idx").alias("user"),
        F.max("item_idx").alias("item"),
        F.max(F.array_max("history_item_idx")).alias("history"),
        F.max(F.size("history_item_idx")).alias("length"),
    ).first()
    assert row is not None
    dense = dense_statistics(samples.where("part = 'train'"))
    items = _items(context, 1 + max(row["item"], row["history"]))
    codebook = _codebook(context)
    return RankerTask(
        ranker=config,
        loader=context.config.loader,
        fit=run_config(
            context.config.training,
            run_id=context.run_id,
            tables={**context.inputs, **context.outputs},  # those read until here
            checkpoints=context.work_dir("checkpoints"),
            events=context.work_dir("events"),
        ),
        labels=list(labels),
        files=by_part,
        history_length=row["length"],
        user_rows=row["user"] + 1,
        dense_mean=dense["mean"],
        dense_std=dense["std"],
        items=items,
        codebook=codebook,
        scores=context.work_dir("scores"),
        models=_folder_of_models(context),
    )


def _folder_of_models(context: Context) -> str:
    """A folder of this run, not the one with the published models: they stay until this is done."""
    published = manifest.find(context.lake.root, context.stage)
    uri = published.artifacts["ranker"]["uri"] if published is not None else None
    first, second = context.work_dir("models"), context.work_dir("models-again")
    return second if uri == first else first


def _uses(context: Context) -> set[str]:
    config = context.config.ranker
    return {use for variant in config.variants for use in CONTENT[variant]}


def _items(context: Context, rows: int) -> ItemSource:
    """The tables that some variant uses; ``rows``: one more than the largest item of a sample."""
    from pyspark.sql import functions as F

    uses = _uses(context)
    versions = {"codebook_id": "", "encoder_version": ""}
    live: dict[str, list[str]] = {"semantic_ids": [], "item_embeddings": []}
    for name, column, needed in (
        ("semantic_ids", "codebook_id", {"rq", "vq"}),
        ("item_embeddings", "encoder_version", {"vector"}),
    ):
        if not uses & needed:
            continue
        table = context.table(name)
        versions[column] = _one_version(context, table, name, column)
        live[name] = context.live_files(name)
        top = table.agg(F.max("item_idx").alias("top")).first()
        rows = max(rows, 1 + top["top"]) if top is not None else rows
    return ItemSource(
        rows=rows, embeddings=live["item_embeddings"], codes=live["semantic_ids"], **versions
    )


def _one_version(context: Context, table: DataFrame, name: str, column: str) -> str:
    """The version to take: the only one, or the one that assign-codes used last.

    Raises:
        InputError: none, or several and nothing says which.
    """
    versions = sorted(row[0] for row in table.select(column).distinct().limit(50).collect())
    if len(versions) == 1:
        version: str = versions[0]
        return version
    published = context.facts("assign-codes").get(column)
    if published in versions and not context.is_external(name):
        return str(published)
    raise InputError(
        f"{name} has {len(versions)} values of {column} ({versions[:5]}) and nothing says "
        "which one to train on; keep one of them in the table"
    )


def _codebook(context: Context) -> str | None:
    """URI of the codebook that code tables start from, for the ranks to read."""
    if not _uses(context) & {"rq", "vq"} or context.find("codebooks") is None:
        return None
    uri = context.work_dir("codebook.safetensors")
    files.write_bytes(uri, load_codebook(context).to_bytes())
    return uri


def _shown(trials: Sequence[Trial]) -> list[str]:
    """The trials as lines: equal for all variants, chosen on validation."""
    lines = ["trials (variant, seed, id dropout: valid AUC of each epoch; * chosen):"]
    for trial in trials:
        epochs = " ".join(f"{auc:.4f}" for auc in trial.epochs)
        mark = " *" if trial.chosen else ""
        lines.append(
            f"  {trial.variant}, {trial.seed}, {trial.id_dropout:g}: {epochs} -> epoch "
            f"{trial.epoch}{mark} ({trial.rows_per_second:,} rows/s)"
        )
    return lines


def _check_scores(scores: DataFrame, expected: int, models: int) -> None:
    """Raise RowsLostError unless every model scored every held-out sample once."""
    from pyspark.sql import functions as F

    counted = scores.groupBy("variant", "seed").agg(
        F.count("*").alias("rows"), F.countDistinct("sample_id").alias("samples")
    )
    found = {(r["variant"], r["seed"]): (r["rows"], r["samples"]) for r in counted.collect()}
    wrong = {key: seen for key, seen in found.items() if seen != (expected, expected)}
    if wrong or len(found) != models:
        raise RowsLostError(
            f"{models} models should have scored {expected} held-out samples once each; "
            f"{len(found)} have scores, with other (rows, distinct samples): {wrong}"
        )


def _ranker_rows(scores: DataFrame, held_out: DataFrame, labels: Sequence[str]) -> DataFrame:
    """Scores of the ranks as rows of predictions."""
    return _one_row_a_head(held_out.join(scores, "sample_id"), labels)


def _floor_rows(
    samples: DataFrame, held_out: DataFrame, labels: Sequence[str], seeds: Sequence[int]
) -> DataFrame:
    """Scores of the floor as rows of predictions: the same for each seed."""
    from pyspark.sql import functions as F

    scored = floor.predict(samples.where("part = 'train'"), held_out, labels)
    every_seed = F.explode(F.array(*(F.lit(seed) for seed in seeds)))
    scored = scored.withColumns({"variant": F.lit(floor.VARIANT), "seed": every_seed})
    return _one_row_a_head(scored, labels)


def _one_row_a_head(scored: DataFrame, labels: Sequence[str]) -> DataFrame:
    from pyspark.sql import functions as F

    heads = F.array(
        *(
            F.struct(
                F.lit(name).alias("head"),
                F.col(f"{_LABEL}{name}").alias("label"),
                F.col(f"score_{name}").alias("score"),
            )
            for name in labels
        )
    )
    kept = [
        *("sample_id", "user_idx", "item_idx", "part", "variant", "seed"),
        *("weight", "is_repeat", "item_train_events"),
    ]
    return scored.select(*kept, F.explode(heads).alias("__head")).select(*kept, "__head.*")


def _rows(samples: DataFrame, part: str) -> int:
    from pyspark.sql import functions as F

    return samples.where(F.col("part") == part).count()
