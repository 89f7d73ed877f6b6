"""Runs stages: skip what is up to date, check that rows add up, gate, publish, summarise."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qarm import progress
from qarm.config import Config, fingerprint
from qarm.errors import ConfigError, GateError
from qarm.lake import files, manifest
from qarm.lake.tables import Lake
from qarm.memory import PeakMemory
from qarm.pipeline import summary
from qarm.pipeline.code_version import code_version
from qarm.pipeline.context import Context
from qarm.pipeline.stages import STAGES, Stage
from qarm.session import start_workers

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: A stage is not needed when the user brings all tables of one of these groups.
_REPLACED_BY: dict[str, tuple[tuple[str, ...], ...]] = {
    "mine-pairs": (("item_pairs", "id_vectors"),),
    "train-alignment": (("item_embeddings",),),
    "embed-catalog": (("item_embeddings",),),
    "fit-codebooks": (("codebooks",), ("semantic_ids",)),
    "assign-codes": (("semantic_ids",),),
    "build-samples": (("ranking_samples",),),
}


def run_stage(
    stage: Stage,
    config: Config,
    spark: SparkSession,
    *,
    as_of: datetime | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Run one stage, or say why it need not run; returns its entry of summary.json.

    Raises:
        QarmError: the input cannot be used, a gate stopped the run, or rows do not add up. Nothing
            is published then.
    """
    lake = Lake(spark, config.lake)
    brought = set(config.external.tables)
    groups = _REPLACED_BY.get(stage.name, ())
    if replaced := next((names for names in groups if brought >= set(names)), None):
        progress.say(f"{stage.name}: not needed, you bring {', '.join(replaced)}")
        return summary.skipped(stage.name, "external")
    context = _context(stage, config, spark, lake, as_of)
    before = manifest.find(lake.root, stage.name)
    if before is not None and before.run_id == context.run_id and not force:
        progress.say(f"{stage.name}: up to date (run {context.run_id})")
        _check_published(stage, config, lake.root, before.result.get("metrics", []))
        return {**before.result, "status": "skipped"}
    progress.say(f"{stage.name}: {stage.summary}")
    start_workers(spark)
    started = time.monotonic()
    with PeakMemory() as memory:
        result = stage.load()(context)
    for ledger in result.ledgers:
        ledger.close(stage.name)
    metrics = [asdict(metric) for metric in result.metrics]
    _check_metric_gates(
        config, metrics, "Nothing was published, the tables of the run before stand"
    )
    if stage.name == "evaluate":  # all metrics that a gate can name are there now
        _check_gate_names(config, lake.root, metrics)
    entry = summary.entry(
        stage.name, context, result, time.monotonic() - started, memory.peak_bytes
    )
    manifest.publish(
        lake.root,
        manifest.Manifest(
            stage=stage.name,
            run_id=context.run_id,
            config_hash=context.config_hash,
            code_version=context.code_version,
            inputs={name: ref.as_dict() for name, ref in sorted(context.inputs.items())},
            outputs={name: ref.as_dict() for name, ref in sorted(context.outputs.items())},
            artifacts=result.artifacts,
            facts=result.facts,
            result=entry,
        ),
    )
    summary.print_entry(entry)
    return entry


def run_pipeline(
    config: Config,
    spark: SparkSession,
    *,
    first: str | None = None,
    last: str | None = None,
    as_of: datetime | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Run the stages ``first`` to ``last`` in order and write ``summary.json`` after each."""
    names = [stage.name for stage in STAGES]
    start = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    for stage in STAGES[start:end]:
        entry = run_stage(stage, config, spark, as_of=as_of, force=force)
        summary.update(config, entry)
    return summary.read(config)


def _context(
    stage: Stage, config: Config, spark: SparkSession, lake: Lake, as_of: datetime | None
) -> Context:
    config_hash = fingerprint(stage.settings(config))
    version = code_version(stage.module)
    context = Context(
        config=config,
        spark=spark,
        lake=lake,
        stage=stage.name,
        run_id="",
        code_version=version,
        config_hash=config_hash,
        as_of=as_of,
    )
    context.run_id = fingerprint(
        stage.name, config_hash, version, str(as_of), _input_marks(stage, config, context)
    )
    context.inputs.clear()  # only what the stage really reads belongs into its lineage
    return context


def _input_marks(stage: Stage, config: Config, context: Context) -> dict[str, Any]:
    """What the result depends on beside config and code: files, table versions, artifacts."""
    marks: dict[str, Any] = {}
    if stage.name == "ingest":
        sources = [*config.log.path, *config.items.path]
        sources += [uri for uris in config.split.files.values() for uri in uris]
        marks["sources"] = {uri: files.describe(uri) for uri in sources}
    for name in (*stage.inputs, *stage.optional_inputs):
        if name in stage.outputs:
            continue
        if context.is_external(name):
            uri = config.external.tables[name]
            marks[name] = {"external": uri, "files": files.describe(uri)}
        elif (ref := manifest.pinned(context.lake.root, name)) is not None:
            marks[name] = ref.version
    for artifact in stage.artifacts:
        owner, _, key = artifact.partition("/")
        found = manifest.find(context.lake.root, owner)
        marks[artifact] = found.artifacts.get(key, {}).get("version") if found else None
    return marks


def _gate_name(metric: Mapping[str, Any]) -> str:
    return f"{metric['metric']}/{metric['variant']}/{metric['part']}"


def _check_published(
    stage: Stage, config: Config, root: str, metrics: Sequence[Mapping[str, Any]]
) -> None:
    """Gates of metrics hold for a stage that need not run, too: they may have been edited."""
    _check_metric_gates(config, metrics, "The run is published, and was not made again")
    if stage.name == "evaluate":
        _check_gate_names(config, root, metrics)


def _check_gate_names(config: Config, root: str, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError for a metric gate that no metric answers to: it would never stop a run."""
    found = [*metrics]
    for published in manifest.all_of(root).values():
        found += published.result.get("metrics", [])
    names = {_gate_name(metric) for metric in found if metric["slice"] == "all"}
    for gate in config.gates.min_metric:
        if gate not in names:
            near = difflib.get_close_matches(gate, names, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {sorted(names)}"
            raise ConfigError(
                f"gates.min_metric: no metric is called {gate!r} (metric/variant/part); {hint}"
            )


def _check_metric_gates(
    config: Config, metrics: Sequence[Mapping[str, Any]], consequence: str
) -> None:
    """Raise GateError for a metric below its gate (``metric/variant/part``)."""
    for metric in metrics:
        name = _gate_name(metric)
        least = config.gates.min_metric.get(name)
        if metric["slice"] == "all" and least is not None and not metric["value"] >= least:
            raise GateError(
                f"gates.min_metric: {name} is {metric['value']:.4f}, below {least}. {consequence}. "
                "Look at what changed in the input (qarm lineage), or lower the gate"
            )
