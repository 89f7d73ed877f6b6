"""``summary.json``: row counts, times and metrics of the last run of each stage."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qarm import progress
from qarm.config import Config
from qarm.lake import files
from qarm.ledger import StageResult
from qarm.pipeline.stages import STAGES

if TYPE_CHECKING:
    from qarm.pipeline.context import Context

VERSION = 1
_MOST_COLUMNS = 8


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
    # `qarm quality` prints the metrics of codes as tables of its own.
    for line in [] if stage_entry["name"] == "quality" else metric_lines(stage_entry["metrics"]):
        progress.say(f"  {line}")
    gigabytes = stage_entry["peak_bytes"] / 1e9
    progress.say(f"  {stage_entry['seconds']:.1f} s, peak {gigabytes:.2f} GB over all processes")


def metric_lines(metrics: list[dict[str, Any]]) -> list[str]:
    """Metrics as tables: one row per variant, one column per metric, a table per slice and part.

    If there are figures of the test part, those of validation are omitted. Of the slices, only
    "all" and the warm pairs of the alignment are shown.
    """
    parts = {m["part"] for m in metrics}
    shown = [
        m
        for m in metrics
        if (m["slice"] == "all" or m["slice"].endswith("warm"))
        and not (m["part"] == "valid" and "test" in parts)
    ]
    lines: list[str] = []
    for where in dict.fromkeys((m["slice"], m["part"]) for m in shown):
        group = [m for m in shown if (m["slice"], m["part"]) == where]
        title = ", ".join(w for w in where if w and w != "all")
        lines += _table(group, title)
    return lines


def _table(metrics: list[dict[str, Any]], title: str) -> list[str]:
    cells: dict[str, dict[str, list[str]]] = {}
    for m in metrics:  # metrics of several levels (name_l1, name_l2, ...) share a cell
        name = re.sub(r"_l\d+$", " by level", m["metric"])
        cells.setdefault(name, {}).setdefault(m["variant"], []).append(_figure(m["value"]))
    variants = list(dict.fromkeys(m["variant"] for m in metrics))
    if len(cells) > _MOST_COLUMNS:
        return [
            f"{variant or title} {name}: {' '.join(values)}"
            for name, row in cells.items()
            for variant, values in row.items()
        ]
    width = max(len(v) for v in [*variants, title]) + 2
    wide = {
        n: max(len(w) for w in [n, *map(" ".join, row.values())]) + 2 for n, row in cells.items()
    }
    lines = [title.ljust(width) + "".join(name.rjust(wide[name]) for name in cells)]
    for variant in variants:
        row = (" ".join(cells[n].get(variant, [])).rjust(wide[n]) for n in cells)
        lines.append(variant.ljust(width) + "".join(row))
    return lines


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"
