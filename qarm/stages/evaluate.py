"""Stage evaluate: predictions, vectors and test pairs -> metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from qarm.config import fingerprint
from qarm.evaluation import held_out_pairs, ranking_metrics, retrieval, vectors
from qarm.evaluation.held_out_pairs import TestPairs
from qarm.evaluation.recall import recall_metrics
from qarm.evaluation.slices import SAMPLE_SLICES, head_threshold
from qarm.ingest.parts import training_parts, with_part
from qarm.lake import files, manifest
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline.code_version import code_version
from schemas import metrics as metrics_table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

#: Parts that the ranker is judged on.
PARTS = ("valid", "test")


def run(context: Context) -> StageResult:
    """Judge the ranker and the vectors; write the metrics table."""
    ranker = _evaluate_ranker(context)
    alignment = _evaluate_vectors(context)
    metrics = [*ranker.metrics, *alignment.metrics]
    context.overwrite(metrics_table.TABLE, _as_rows(context, metrics))
    return StageResult(
        ledgers=[*ranker.ledgers, *alignment.ledgers],
        metrics=metrics,
        facts={**ranker.facts, **alignment.facts},
    )


def _evaluate_ranker(context: Context) -> StageResult:
    from pyspark.sql import functions as F

    predictions = context.table("predictions")
    known = ranking_metrics.models(predictions)
    judged = {model: rows for model, rows in known.items() if model.part in PARTS}
    head = head_threshold(_training_events(context))
    in_parts = predictions.where(F.col("part").isin(*PARTS))
    figures = ranking_metrics.evaluate(in_parts, judged, head)
    evaluated = sum(f.rows for (_, name), f in figures.items() if name == "all")
    undefined = sorted(
        f"{model.variant}/{model.part}/{name}"
        for (model, name), f in figures.items()
        if not np.isfinite(f.auc.value)
    )
    positive = context.facts("ingest").get("positive", context.config.log.positive)
    return StageResult(
        ledgers=[
            Ledger(
                name="predictions",
                rows_in=sum(known.values()),
                rows_out=evaluated,
                dropped={"part_not_judged": sum(known.values()) - sum(judged.values())},
            )
        ],
        metrics=ranking_metrics.as_metrics(figures, positive),
        facts={
            "slices": list(SAMPLE_SLICES.items()),
            "head_events": head,
            "auc_undefined": undefined,
        },
    )


def _evaluate_vectors(context: Context) -> StageResult:
    """New-pair recall; left out, with the reason, if a table for it is missing."""
    missing = [t for t in ("item_embeddings", "item_pairs") if context.find(t) is None]
    if missing:
        why = f"no table {' and no table '.join(missing)}"
        context.say(f"new-pair recall is left out: {why}")
        return StageResult(ledgers=[], facts={"new_pairs": {"left_out": why}})
    by_source = _test_pairs(context)
    catalogue = _catalogue(context).persist()
    candidates = catalogue.count() - 1
    spaces = vectors.fit_spaces(catalogue)
    trigger = np.concatenate([p.trigger for p in by_source.values()])
    target = np.concatenate([p.target for p in by_source.values()])
    ranks = retrieval.rank_targets(trigger, target, catalogue, spaces) if len(trigger) else {}
    catalogue.unpersist()
    facts: dict[str, Any] = {"candidates": candidates, "spaces": spaces.names, "sources": {}}
    result = StageResult(ledgers=[], facts={"new_pairs": facts})
    start = 0
    for source, pairs in by_source.items():
        result.ledgers.append(
            Ledger(
                name=f"distinct test pairs, {source}",
                rows_in=pairs.mined,
                rows_out=len(pairs),
                dropped=pairs.dropped,
            )
        )
        if not len(pairs):
            context.say(f"no new {source} pairs in the test part ({pairs.mined} mined)")
        if not ranks:
            continue
        own = {name: r.part(start, start + len(pairs)) for name, r in ranks.items()}
        start += len(pairs)
        cutoffs = context.config.evaluation.recall_at
        result.metrics += recall_metrics(source, pairs, own, candidates, cutoffs)
        facts["sources"][source] = {
            "pairs": len(pairs),
            "warm": int(pairs.warm.sum()),
            "without_vector": {n: int((~r.ranked).sum()) for n, r in own.items()},
        }
    return result


def _test_pairs(context: Context) -> Mapping[str, TestPairs]:
    """Those of stage quality if it mined them from the same tables, settings and code."""
    tables = {n: context.table(n) for n in held_out_pairs.TABLES if context.find(n)}
    settings = held_out_pairs.Settings.of(context.config)
    refs = {name: context.ref(name).as_dict() for name in tables}
    version = fingerprint(refs, settings.as_json(), code_version(held_out_pairs.__name__))
    published = manifest.find(context.lake.root, "quality")
    saved = published.artifacts.get(held_out_pairs.ARTIFACT, {}) if published else {}
    if saved.get("version") == version and files.exists(str(saved["uri"])):
        context.say("test pairs are those of stage quality")
        return held_out_pairs.load(str(saved["uri"]))
    return held_out_pairs.mine_test_pairs(tables, settings)


def _catalogue(context: Context) -> DataFrame:
    """Candidates: every item of the log, with ``in_training`` and its vectors."""
    from pyspark.sql import functions as F

    training = _training_events(context).select("item_idx").distinct()
    items = (
        context.table("interactions")
        .select("item_idx")
        .distinct()
        .join(training.withColumn("in_training", F.lit(True)), "item_idx", "left")
        .withColumn("in_training", F.coalesce("in_training", F.lit(False)))
    )
    columns = vectors.vector_columns(
        context.table("item_embeddings"),
        encoder_version=context.facts("embed-catalog").get("encoder_version"),
        id_vectors=context.table("id_vectors") if context.find("id_vectors") else None,
        features=context.table("item_features") if context.find("item_features") else None,
        backbones=context.facts("train-alignment").get("backbones", {}),
    )
    return vectors.wide_rows(items, columns)


def _training_events(context: Context) -> DataFrame:
    from pyspark.sql import functions as F

    parts = training_parts(context.facts("ingest"))
    splits = context.table("event_splits").where(F.col("part").isin(parts))
    return with_part(context.table("interactions"), splits)


def _as_rows(context: Context, metrics: list[Metric]) -> DataFrame:
    """The figures of this stage and of the earlier ones: the table holds every figure."""
    rows = [{"run_id": context.run_id, "stage": context.stage, **asdict(m)} for m in metrics]
    for stage, published in sorted(manifest.all_of(context.lake.root).items()):
        if stage != context.stage:
            rows += [{**m, "run_id": published.run_id} for m in published.result.get("metrics", [])]
    columns = ", ".join(f"{c.name} {c.type}" for c in metrics_table.TABLE.columns)
    numbers = ("value", "low", "high")  # Spark does not convert int to double
    ordered = [
        tuple(
            float(row[c]) if c in numbers and row[c] is not None else row[c]
            for c in metrics_table.TABLE.column_names
        )
        for row in rows
    ]
    return context.spark.createDataFrame(ordered, columns).coalesce(1)
