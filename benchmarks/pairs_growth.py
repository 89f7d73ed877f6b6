"""How the time of ItemCF grows with the log, at a fixed cap: 1, 2, 4 and 8 times the rows.

    .venv/bin/python benchmarks/pairs_growth.py [--rows 2050000] [--runs 3] [--plot docs/growth.png]

Prints one JSON line per size, and one that compares the two largest sizes: the exponent log(time
ratio) / log(rows ratio), and the core nanoseconds per additional co-occurrence, everything
included. Runs of the sizes alternate; times are medians, from Parquet to Delta in a warm session.
The catalogue stays the same, users are added. ``driver_mb``: resident memory of the driver's Python
and heap used by the driver's JVM after a collection (in local mode the JVM is executor as well).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow.parquet as pq
from cooccurrence import ours
from logs import session, stored_log
from timing import say, timed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TIMES = (1, 2, 4, 8)
ITEMS = 200_000
ROWS_A_USER = 19


def driver_mb(spark: SparkSession) -> tuple[int, int]:
    """Megabytes of this process, and of the JVM's heap after a collection."""
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    jvm.java.lang.System.gc()
    runtime = jvm.java.lang.Runtime.getRuntime()
    heap = runtime.totalMemory() - runtime.freeMemory()
    return psutil.Process().memory_info().rss >> 20, heap >> 20


def cooccurrences(log: Path) -> int:
    """Ordered pairs of events of one user: what is counted over whole histories."""
    lists = np.bincount(pq.read_table(log, columns=["user_idx"])["user_idx"].to_numpy())
    return int((lists * (lists - 1)).sum())


def plot(path: Path, rows: list[int], seconds: list[float]) -> None:
    """Both axes logarithmic; beside the points a line of time in proportion to rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), dpi=120)
    axes.loglog(rows, seconds, "o-", label="ItemCF, Parquet to Delta, 2 cores")
    straight = [seconds[-1] * r / rows[-1] for r in rows]
    axes.loglog(rows, straight, "--", color="grey", label="in proportion to rows")
    axes.set_xlabel("rows of the log")
    axes.set_ylabel("seconds")
    axes.set_xticks(rows, [f"{r / 1e6:.1f} M" for r in rows], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """All sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_050_000, help="rows of the smallest log")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "qarm-bench")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sizes = [arguments.rows * k for k in TIMES]
    logs = [stored_log(arguments.folder, size // ROWS_A_USER, ITEMS, size) for size in sizes]
    met = [cooccurrences(log) for log in logs]
    rows = [sum(pq.read_metadata(f).num_rows for f in log.glob("*.parquet")) for log in logs]
    spark = session()
    out = arguments.folder / "growth"
    ours(spark, logs[0], out)  # warm
    seconds: list[list[float]] = [[] for _ in sizes]
    memory = [(0, 0) for _ in sizes]
    for run in range(arguments.runs):
        for k, log in enumerate(logs):
            seconds[k].append(timed(lambda: ours(spark, log, out)))  # noqa: B023  called at once
            memory[k] = max(memory[k], driver_mb(spark))
            say(f"run {run + 1}, {rows[k]:,} rows: {seconds[k][-1]:.1f} s, {memory[k]} MB")
    medians = [statistics.median(s) for s in seconds]
    for k, size in enumerate(rows):
        line = {
            "benchmark": "pairs_growth",
            "case": f"{size} rows",
            "ours_s": round(medians[k], 2),
            "cooccurrences": met[k],
            "list_length_per_event": round(met[k] / size + 1, 1),
            "driver_mb": memory[k],
            "runs": arguments.runs,
        }
        print(json.dumps(line), flush=True)
    exponent = math.log(medians[-1] / medians[-2]) / math.log(rows[-1] / rows[-2])
    nanoseconds = 2e9 * (medians[-1] - medians[-2]) / (met[-1] - met[-2])
    line = {
        "benchmark": "pairs_growth",
        "case": "between the two largest",
        "exponent": round(exponent, 3),
        "core_ns_per_cooccurrence": round(nanoseconds, 1),
    }
    print(json.dumps(line), flush=True)
    if arguments.plot:
        plot(arguments.plot, rows, medians)


if __name__ == "__main__":
    main()
