"""``python -m qarm.evidence``: runs the shipped configurations with several seeds; mean, deviation.

Each seed runs the whole pipeline in its own lake, ``<lake>/<configuration>-seed<k>``. Stages that
are up to date are skipped, so that an interrupted command resumes when it is repeated. The seed
changes ID vectors, alignment, codebooks, sampled negatives and the ranker. The deviation over seeds
is due to the method; the intervals in the report are over users.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qarm import progress
from qarm.config import Config, load
from qarm.errors import QarmError, guarded
from qarm.lake import files
from qarm.report.figures import Figures, combine
from qarm.report.findings import EVALUATE, SOURCES, VARIANTS, ordered
from qarm.report.processor import processor_name

CONFIGS = ("conf/demo.toml", "conf/movielens-100k.toml", "conf/amazon-scientific.toml")
SEEDED = ("pairs.seed={}", "alignment.seed={}", "codes.seed={}", "samples.seed={}")


@dataclass(frozen=True)
class Row:
    """One figure of all seeds."""

    group: str
    label: str
    values: list[float]

    def as_dict(self) -> dict[str, Any]:
        """The row in evidence.json."""
        figure = combine({"value": v, "n": 1} for v in self.values)
        return {
            "group": self.group,
            "figure": self.label,
            "mean": figure.value,
            "deviation": figure.deviation,
            "values": self.values,
        }

    def as_text(self) -> str:
        """The row as printed."""
        fields = self.as_dict()
        deviation = fields["deviation"]
        spread = f" ± {deviation:.4f}" if deviation is not None else ""
        each = "  ".join(f"{v:.4f}" for v in self.values)
        return f"  {self.label:<42} {fields['mean']:>9.4f}{spread:<10}   {each}"


def overrides(seed: int) -> list[str]:
    """Settings that depend on the seed, as for ``qarm run --set``."""
    return [*(text.format(seed) for text in SEEDED), f"ranker.seeds=[{seed}]"]


def missing_sources(config: Config) -> list[str]:
    """Source files of a configuration that do not exist."""
    return [uri for uri in (*config.log.path, *config.items.path) if not files.describe(uri)]


def run_seed(path: str, lake: str, seed: int, extra: Sequence[str] = ()) -> dict[str, Any]:
    """Run the pipeline in a process of its own; returns its summary.json.

    Raises:
        QarmError: the run failed; its message is printed above.
    """
    command = [sys.executable, "-m", "qarm.cli", "run", "--config", path, "--lake", lake]
    for override in (*overrides(seed), *extra):
        command += ["--set", override]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise QarmError(
            f"{path} with seed {seed} failed with exit code {done.returncode}; see the error "
            "above. Repeat the command to resume after the last stage that finished"
        )
    summary: dict[str, Any] = json.loads(files.read_text(files.join(lake, "summary.json")))
    return summary


def rows_of(metrics: Sequence[dict[str, Any]], cutoff: int) -> Iterator[Row]:
    """The printed rows.

    Args:
        metrics: the entries of ``metrics`` in summary.json of all runs.
        cutoff: k of new-pair Recall@k.
    """
    figures = Figures(metrics)

    def row(group: str, label: str, *key: str) -> Iterator[Row]:
        if values := figures.seeds(*key):
            yield Row(group, label, values)

    for source in ("u2i", "swing"):
        group = f"new-pair Recall@{cutoff}, {SOURCES[source]}, warm"
        where = (f"{source} warm", "test")
        for space in ("chance", "raw", "aligned", "id_vectors"):
            yield from row(group, space, EVALUATE, f"recall@{cutoff}", space, *where)
        ratio = (EVALUATE, f"recall_ratio@{cutoff}", "aligned/raw")
        yield from row(group, "aligned / raw", *ratio, *where)
    heads = [m.removeprefix("auc") for m in figures.names(EVALUATE, "metric") if m[:3] == "auc"]
    for head in dict.fromkeys(h for h in heads if h == "" or h.startswith("[")):
        label = f", label {head.strip('[]')}" if head else ""
        for metric in ("auc", "auc_gain", "uauc", "gauc", "log_loss"):
            for variant in ordered(figures.names(EVALUATE, "variant")):
                key = (EVALUATE, metric + head, variant, "all", "test")
                over = " over floor" if (metric, variant) == ("auc_gain", "base") else ""
                over = over or (" over base" if metric == "auc_gain" else "")
                name = f"{metric} {VARIANTS.get(variant, variant)}{over}"
                yield from row(f"ranker, test{label}", name, *key)
    for metric in figures.names("quality", "metric"):
        for variant in ("rq", "vq", ""):
            name = metric if metric[:2] == variant else f"{variant} {metric}".strip()
            yield from row("codes, all items", name, "quality", metric, variant, "all")


def _evidence(arguments: argparse.Namespace) -> None:
    runs_by_config: list[dict[str, Any]] = []
    for path in arguments.configs:
        config = load(path, arguments.set)
        if absent := missing_sources(config):
            print(
                f"{config.name}: skipped, its data is missing ({', '.join(absent)}); it is not "
                "shipped with the project"
            )
            continue
        runs = []
        for seed in arguments.seeds:
            lake = files.join(arguments.lake, f"{Path(path).stem}-seed{seed}")
            progress.say(f"{config.name}, seed {seed}, in {lake}")
            runs.append(run_seed(path, lake, seed, arguments.set))
        rows = list(
            rows_of([m for run in runs for m in run["metrics"]], config.evaluation.recall_at[0])
        )
        runs_by_config.append(
            {
                "config": path,
                "name": config.name,
                "seeds": arguments.seeds,
                "processor": processor_name(),
                "seconds": [sum(s.get("seconds", 0) for s in run["stages"]) for run in runs],
                "peak_bytes": max(s.get("peak_bytes", 0) for run in runs for s in run["stages"]),
                "figures": [row.as_dict() for row in rows],
            }
        )
        _print(runs_by_config[-1], rows)
        uri = files.join(arguments.lake, "evidence.json")
        files.write_text(uri, json.dumps(runs_by_config, indent=1))
    if runs_by_config:
        print(f"\nwritten to {files.join(arguments.lake, 'evidence.json')}")


def _print(run: dict[str, Any], rows: Sequence[Row]) -> None:
    seconds = ", ".join(f"{s:.0f} s" for s in run["seconds"])
    seeds, peak = ", ".join(map(str, run["seeds"])), run["peak_bytes"] / 1e9
    print(f"\n== {run['name']}, seeds {seeds}: {seconds}; peak {peak:.2f} GB")
    print(f"  {run['processor']}")
    print(f"  {'':<42} {'mean':>9} ± deviation   each seed")
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            print(f"\n  -- {group}")
        print(row.as_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m qarm.evidence",
        description="Run configurations with several seeds; print mean and deviation over seeds.",
    )
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), metavar="TOML")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument(
        "--lake", default="lake/evidence", metavar="URI", help="folder of the lakes"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    arguments = parser.parse_args(argv)
    return guarded(lambda: _evidence(arguments))


if __name__ == "__main__":
    # Exit by an exception, which also ends the pipeline that is running.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
