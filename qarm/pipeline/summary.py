"""``summary.json``: row counts, times and metrics of the last run of each stage."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qarm import progress
from qarm.config import Config
from qarm.lake import files
from qarm.ledger import StageResult
from qarm.pipeline.stages import STAGES
from qarm.report.text_tables import metric_lines

if TYPE_CHECKING:
    from qarm.pipeline.context import Context

VERSION = 1


def entry(
    stage: str, context: Context, result: StageResult, seconds: float, peak_bytes: int
) -> dict[str, Any]:
    """The stage's entry in ``stages``."""
    main, *others = result.ledgers
    return {
        "name": stage,
        "status": "done",
        "run_id": context.run_id,
        "rows_in": main.rows_in,
        "rows_out": main.rows_out,
        "dropped": main.dropped,
        "added": main.added,
        "counted": main.name,
        "ledgers": [asdict(ledger) for ledger in others],
        "seconds": round(seconds, 2),
        "peak_bytes": peak_bytes,
        "inputs": {name: ref.version for name, ref in sorted(context.inputs.items())},
        "outputs": {name: ref.version for name, ref in sorted(context.outputs.items())},
        "artifacts": result.artifacts,
        "facts": result.facts,
        "metrics": [{"stage": stage, **asdict(metric)} for metric in result.metrics],
    }


def skipped(stage: str, why: str) -> dict[str, Any]:
    """The entry of a stage that did not need to run."""
    return {
        "name": stage,
        "status": why,
        "rows_in": 0,
        "rows_out": 0,
        "dropped": {},
        "seconds": 0.0,
        "peak_bytes": 0,
        "inputs": {},
        "outputs": {},
        "metrics": [],
    }


def uri(config: Config) -> str:
    """URI of summary.json."""
    return files.join(files.absolute(config.lake), "summary.json")


def read(config: Config) -> dict[str, Any]:
    """The current summary; without stages if there is no file yet."""
    if not files.exists(uri(config)):
        return {"version": VERSION, "name": config.name, "stages": [], "metrics": []}
    tree: dict[str, Any] = json.loads(files.read_text(uri(config)))
    return tree


def update(config: Config, stage_entry: dict[str, Any]) -> None:
    """Replace the stage's entry and its metrics."""
    tree = read(config)
    name = stage_entry["name"]
    fresh = {k: v for k, v in stage_entry.items() if k != "metrics"}
    order = {stage.name: place for place, stage in enumerate(STAGES)}
    stages = [s for s in tree["stages"] if s["name"] != name] + [fresh]
    tree["stages"] = sorted(stages, key=lambda s: order.get(s["name"], len(order)))
    tree["version"], tree["name"] = VERSION, config.name
    tree["metrics"] = [m for m in tree["metrics"] if m["stage"] != name] + list(
        stage_entry.get("metrics", [])
    )
    files.write_text(uri(config), json.dumps(tree, indent=1))


def print_entry(stage_entry: dict[str, Any]) -> None:
    """Print rows in, rows out, dropped rows by reason, and the metrics."""
    ledgers = [{**stage_entry, "name": stage_entry["counted"]}, *stage_entry["ledgers"]]
    for ledger in ledgers:
        parts = [f"{ledger['rows_in']:,} in"]
        parts += [f"+ {n:,} {why}" for why, n in ledger["added"].items() if n]
        parts += [f"- {n:,} {why}" for why, n in ledger["dropped"].items() if n]
        progress.say(f"  {ledger['name']}: {' '.join(parts)} = {ledger['rows_out']:,} out")
    # The many metrics of the codes are printed as tables by `qarm quality`.
    for line in [] if stage_entry["name"] == "quality" else metric_lines(stage_entry["metrics"]):
        progress.say(f"  {line}")
    gigabytes = stage_entry["peak_bytes"] / 1e9
    progress.say(f"  {stage_entry['seconds']:.1f} s, peak {gigabytes:.2f} GB over all processes")
