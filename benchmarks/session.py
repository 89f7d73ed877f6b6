"""A session on one machine: its start, Python tasks, and stages of a small log, as users get them.

    .venv/bin/python benchmarks/session.py [--runs 3] [--stages]

``start``: a session and the count of a Delta table, with and without the archive of JVM classes
that the set-up makes. ``tasks``: 40 tasks on two slots that hand three rows to Python and back,
from ``qarm.worker_daemon`` and from Spark's own daemon, third time in a session. ``--stages``
(minutes): ingest and mine-pairs of two weeks of the demo's log, with the partitions of one
machine and with Spark's and Delta's defaults. Each side is a process of its own; ``equal``: both
counted the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from timing import interleaved, report

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROOT = Path(__file__).resolve().parent.parent
SPARKS = {
    "tasks": {"spark.python.daemon.module": "pyspark.daemon"},
    "stages": {
        "spark.sql.shuffle.partitions": "200",
        "spark.databricks.delta.snapshotPartitions": "50",
    },
}
PEERS = {
    "start": "no archive of classes",
    "tasks": "pyspark.daemon",
    "stages": "200 and 50 partitions",
}


def child(case: str, ours: bool) -> dict[str, float]:
    """Seconds of one side, and what it has counted."""
    from qarm import session

    if case == "start" and not ours:
        session.class_archive_options = str  # type: ignore[assignment]
    settings = {"spark.ui.enabled": "false", **({} if ours else SPARKS.get(case, {}))}
    started = time.perf_counter()
    spark = session.open_session("benchmark", master="local[2]", settings=settings)
    if case == "stages":
        return stages(spark)
    if case == "tasks":
        count = 0
        for _ in range(3):
            started = time.perf_counter()
            rows = spark.range(0, 120, 1, 40).mapInArrow(lambda batches: batches, "id long")
            count = len(rows.collect())
    else:
        with delta_table(spark) as table:
            count = table.count()
    return {"seconds": time.perf_counter() - started, "count": count}


@contextmanager
def delta_table(spark: SparkSession) -> Iterator[DataFrame]:
    """Nine rows."""
    with tempfile.TemporaryDirectory() as folder:
        spark.range(9).write.format("delta").save(f"{folder}/table")
        yield spark.read.format("delta").load(f"{folder}/table")


def stages(spark) -> dict[str, float]:
    """Both stages, without the start of the session."""
    from qarm.config.load import load
    from qarm.lake import manifest
    from qarm.pipeline.runner import run_stage
    from qarm.pipeline.stages import stage

    with tempfile.TemporaryDirectory() as folder:
        changes = {"lake": f"{folder}/lake", "log.rows": "InvoiceDate < '2010-12-15'"}
        config = load(
            str(ROOT / "conf" / "demo.toml"),
            [f"{name}={json.dumps(value)}" for name, value in changes.items()],
        )
        started = time.perf_counter()
        for name in ("ingest", "mine-pairs"):
            run_stage(stage(name), config, spark)
        seconds = time.perf_counter() - started
        pairs = manifest.pinned(config.lake, "item_pairs")
        assert pairs is not None
        count = spark.read.format("delta").load(pairs.path).count()
    return {"seconds": seconds, "count": count}


def main() -> None:
    """All cases, or one side of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print("RESULT", json.dumps(child(given.child[0], given.child[1] == "ours")))
        return
    for case in ["start", "tasks", *(["stages"] if given.stages else [])]:
        found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}

        def side(name: str, case: str = case, found: dict = found) -> None:
            command = [sys.executable, __file__, "--child", case, name]
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=True,
            )
            line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
            found[name].append(json.loads(line.removeprefix("RESULT ")))

        interleaved(case, lambda: side("ours"), lambda: side("peer"), given.runs)
        seconds = [[each["seconds"] for each in found[name]] for name in ("ours", "peer")]
        same = len({each["count"] for name in found for each in found[name]}) == 1
        report("session", case, PEERS[case], *seconds, same)


if __name__ == "__main__":
    main()
