"""Each stage by its own file in jobs/, spark-submitted to local[*] and to a standalone cluster.

    .venv/bin/python -m tests.jobs.each_job [--on local cluster]

The workers are two processes whose Python does not have qarm: it travels as a wheel. The suite runs
all stages by jobs/run.py there (test_cluster.py); one submit a stage takes minutes more.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from qarm.pipeline.stages import STAGES
from tests.jobs.cluster import ROOT, standalone, submit
from tests.jobs.tiny import tiny


def main() -> None:
    """Submit all stages; print rows in and out, and seconds with the start of the JVM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--on", nargs="+", choices=("local", "cluster"), default=["local", "cluster"]
    )
    where = parser.parse_args().on
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = tiny(folder)
        (folder / "cluster").mkdir()
        with standalone(folder / "cluster") as cluster:
            for place in where:
                master = "local[*]" if place == "local" else cluster.master
                lake = folder / place
                for stage in STAGES:
                    job = ROOT / "jobs" / f"{stage.name.replace('-', '_')}.py"
                    started = time.monotonic()
                    submit(
                        cluster, job, "--config", str(config), "--lake", str(lake), master=master
                    )
                    seconds = time.monotonic() - started
                    told = json.loads((lake / "summary.json").read_text())["stages"]
                    done = next(entry for entry in told if entry["name"] == stage.name)
                    print(
                        f"{master:<24} {job.name:<20} {done['status']:<8} "
                        f"{done['rows_in']:>8} -> {done['rows_out']:>8} rows {seconds:6.1f} s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
