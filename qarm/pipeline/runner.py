"""Run stages: skip what is up to date, check that rows add up, check gates, publish, summarise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qarm import progress
from qarm.config import Config, fingerprint
from qarm.errors import plain_errors
from qarm.lake import files, manifest
from qarm.lake.tables import Lake
from qarm.memory import PeakMemory
from qarm.pipeline import metric_gates, own_tables, summary
from qarm.pipeline.code_version import code_version
from qarm.pipeline.context import Context
from qarm.pipeline.stages import STAGES, Stage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


#: What a gate that stops a run means for what is published.
_NOTHING = "Nothing was published; the tables of the previous run remain valid"
_STAYS = "The run stays published and was not repeated"


def run_stage(
    stage: Stage,
    config: Config,
    spark: SparkSession,
    *,
    as_of: datetime | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Run one stage unless it is replaced or up to date; returns its entry of summary.json.

    Raises:
        QarmError: the input cannot be used, a gate stopped the run, or rows do not add up. Nothing
            is published then.
    """
    lake = Lake(spark, config.lake)
    brought = set(config.external.tables)
    if replaced := next((names for names in stage.replaced_by if brought >= set(names)), None):
        progress.say(f"{stage.name}: not needed, since you bring {', '.join(replaced)}")
        return summary.skipped(stage.name, "external")
    sources, artifacts_read = _sources(stage, config), _artifacts(stage, lake.root)
    context = _context(stage, config, spark, lake, as_of)
    marks = _input_marks(stage, config, context, sources, artifacts_read)
    context.run_id = fingerprint(
        stage.name, context.config_hash, context.code_version, str(as_of), marks
    )
    before = manifest.find(lake.root, stage.name)
    if before is not None and before.run_id == context.run_id and not force:
        progress.say(f"{stage.name}: up to date (run {context.run_id})")
        known = before.result.get("metrics", [])
        _check_gates(stage, config, lake.root, known, known, _STAYS)
        return {**before.result, "status": "skipped"}
    progress.say(f"{stage.name}: {stage.summary}")
    started = time.monotonic()
    with PeakMemory() as memory, plain_errors():
        own_tables.adopt_inputs(context, stage)
        result = stage.load()(context)
    for ledger in result.ledgers:
        ledger.close(stage.name)
    metrics = [asdict(metric) for metric in result.metrics]
    published = before.result.get("metrics", []) if before is not None else []
    _check_gates(stage, config, lake.root, metrics, published, _NOTHING)
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
            artifact_inputs=artifacts_read,
            sources=[file for files_of in sources.values() for file in files_of],
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
    """Run the stages ``first`` to ``last`` in order and write ``summary.json`` after each.

    Raises:
        QarmError: as ``run_stage``; a gate that names no metric is refused before the first stage.
    """
    metric_gates.check_names(config.gates)
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
    return Context(
        config=config,
        spark=spark,
        lake=lake,
        stage=stage.name,
        run_id="",
        code_version=version,
        config_hash=config_hash,
        as_of=as_of,
    )


def _sources(stage: Stage, config: Config) -> dict[str, list[dict[str, Any]]]:
    """URI -> its files, of the sources that the stage reads."""
    return {uri: files.describe(uri) for uri in config.source_uris()} if stage.reads_sources else {}


def _artifacts(stage: Stage, root: str) -> dict[str, dict[str, Any]]:
    """stage/name -> the artifact, of those that the stage reads and that are published."""
    found = {}
    for artifact in stage.artifacts:
        owner, _, name = artifact.partition("/")
        published = manifest.find(root, owner)
        if published is not None and name in published.artifacts:
            found[artifact] = published.artifacts[name]
    return found


def _input_marks(
    stage: Stage,
    config: Config,
    context: Context,
    sources: Mapping[str, Any],
    artifacts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What the result depends on besides settings and code: files, table versions, artifacts."""
    marks: dict[str, Any] = {}
    if stage.reads_sources:
        marks["sources"] = sources
    for name in (*stage.inputs, *stage.optional_inputs):
        if context.is_external(name):
            uri = config.external.tables[name]
            marks[name] = {"external": uri, "files": files.describe(uri)}
        elif name not in stage.outputs:
            ref = manifest.pinned(context.lake.root, name)
            if ref is not None:
                marks[name] = ref.version
    for artifact in stage.artifacts:
        marks[artifact] = artifacts.get(artifact, {}).get("version")
    return marks


def _check_gates(
    stage: Stage,
    config: Config,
    root: str,
    metrics: Sequence[Mapping[str, Any]],
    published: Sequence[Mapping[str, Any]],
    consequence: str,
) -> None:
    """Check a stage's metrics, and after the last stage with metrics the names of all gates.

    A stage that is up to date is checked too: the gates may have been edited.
    """
    metric_gates.check_values(config.gates, metrics, published, consequence)
    if stage.completes_metrics:
        others = [
            m for each in manifest.all_of(root).values() for m in each.result.get("metrics", [])
        ]
        metric_gates.check_existence(config.gates, [*metrics, *others])
