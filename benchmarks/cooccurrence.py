"""ItemCF: plain counts over whole histories against implicit and a self-join; shipped defaults.

    .venv/bin/python benchmarks/cooccurrence.py [--runs 5] [--folder DIR] [--skip-join]
        [--activity zipf lognormal]

Plain counts: cosine, no window, top 50. Ours is timed from Parquet on disk to Delta committed, in a
warm session on local[2]; implicit, with two threads, from the same Parquet to Parquet: read, build
the matrix, fit, write. ``equal``: the same scores for each of 2,000 items, and the same partners
except for ties at the 50th place. The shipped defaults (a window of 5 events with recency, top 100)
have no peer; they are timed in turn with plain counts. The naive DataFrame self-join runs once, on
a smaller log, and so does ours beside it, each in its own process, start included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from logs import session, stored_log
from timing import interleaved, report, say

from qarm.config.pairs import ItemCF
from qarm.lake.caching import Keeper
from qarm.lake.files import local_path
from qarm.pairs.itemcf import mine_itemcf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TOP_K = 50
PLAIN = ItemCF(window_events=0, recency=1.0, top_k=TOP_K, max_events_per_user=500)
#: users, items, rows, activity of users
LARGE = ((300_000, 200_000, 5_700_000, "zipf"), (300_000, 200_000, 5_700_000, "lognormal"))
#: Runs until the JVM has compiled what it runs most.
_WARM_UP = 6
SMALL = (100_000, 20_000, 1_800_000, "zipf")


def ours(spark: SparkSession, log: Path, out: Path, config: ItemCF = PLAIN) -> None:
    """Parquet -> Delta."""
    with Keeper() as kept:
        mined = mine_itemcf(spark.read.parquet(str(log)), config, kept)
        # No statistics, as item_pairs has none of these columns but last_ts.
        writer = mined.pairs.write.option("delta.dataSkippingNumIndexedCols", "0")
        writer.format("delta").mode("overwrite").save(str(out))


def self_join(spark: SparkSession, log: Path, out: Path) -> None:
    """What one writes first: events joined with themselves by user, counted, ranked."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    events = spark.read.parquet(str(log)).select("user_idx", "item_idx")
    degree = events.groupBy("item_idx").count()
    one = events.withColumnRenamed("item_idx", "trigger")
    other = events.withColumnRenamed("item_idx", "target")
    both = one.join(other, "user_idx").where("trigger <> target")
    counts = both.groupBy("trigger", "target").agg(F.count("*").alias("c"))
    for side in ("trigger", "target"):
        named = degree.select(F.col("item_idx").alias(side), F.col("count").alias(f"{side}_degree"))
        counts = counts.join(named, side)
    score = F.col("c") / F.sqrt(F.col("trigger_degree") * F.col("target_degree"))
    rank = F.row_number().over(Window.partitionBy("trigger").orderBy(F.desc("score"), "target"))
    top = counts.select("trigger", "target", score.alias("score"), "c").withColumn("rank", rank)
    top.where(F.col("rank") <= TOP_K).write.format("delta").mode("overwrite").save(str(out))


def implicit_cosine(log: Path, out: Path) -> None:
    """implicit's CosineRecommender, two threads, Parquet -> Parquet."""
    from implicit.nearest_neighbours import CosineRecommender
    from scipy import sparse

    table = pq.read_table(log, columns=["user_idx", "item_idx"])
    user, item = (table[name].to_numpy() for name in ("user_idx", "item_idx"))
    model = CosineRecommender(K=TOP_K + 1, num_threads=2)  # the item itself is among them
    model.fit(sparse.csr_matrix((np.ones(len(user)), (user, item))), show_progress=False)
    found = model.similarity.tocoo()
    columns = {"trigger": found.row, "target": found.col, "score": found.data}
    pq.write_table(pa.table(columns), out)


def top_scores(table: pa.Table, sample: set[int]) -> dict[int, dict[int, float]]:
    """trigger -> target -> score, of ``sample``, without the item itself."""
    found: dict[int, dict[int, float]] = {item: {} for item in sample}
    trigger, target, score = (table[n].to_numpy() for n in ("trigger", "target", "score"))
    wanted = np.isin(trigger, np.fromiter(sample, np.int64)) & (trigger != target)
    for i, j, s in zip(trigger[wanted], target[wanted], score[wanted], strict=True):
        found[int(i)][int(j)] = float(s)
    return found


def equal(one: pa.Table, other: pa.Table) -> bool:
    """Whether 2,000 triggers have the same partners, except for ties at the last place."""
    items = np.unique(one["trigger"].to_numpy())
    sample = set(np.random.default_rng(0).choice(items, min(2000, len(items)), False).tolist())
    left, right = top_scores(one, sample), top_scores(other, sample)
    for item in sample:
        a, b = left[item], right[item]
        top = sorted(a.values(), reverse=True)[:TOP_K]
        if not np.allclose(top, sorted(b.values(), reverse=True)[: len(top)], rtol=1e-6):
            return False
        last = top[-1] * (1 + 1e-6)
        if {j for j, s in a.items() if s > last} != {j for j, s in b.items() if s > last}:
            return False
    return True


def delta_rows(spark: SparkSession, path: Path) -> pa.Table:
    """The live rows of a Delta table."""
    files = spark.read.format("delta").load(str(path)).inputFiles()
    return ds.dataset([local_path(f) for f in files]).to_table(
        columns=["trigger", "target", "score"]
    )


def against_implicit(folder: Path, runs: int, wanted: list[str]) -> None:
    """The large logs with the activities ``wanted``; runs alternate."""
    spark = session()
    for users, items, rows, activity in (log for log in LARGE if log[3] in wanted):
        log = stored_log(folder, users, items, rows, activity)
        mine, theirs = folder / "ours", folder / "implicit.parquet"
        name = f"{users} users x {items} items, {rows} rows, {activity} users, top {TOP_K}"
        say(f"{name}: warming up")
        for _ in range(_WARM_UP):
            ours(spark, log, mine)
        implicit_cosine(log, theirs)
        same = equal(delta_rows(spark, mine), pq.read_table(theirs))
        seconds = interleaved(
            name,
            lambda: ours(spark, log, mine),  # noqa: B023  called at once
            lambda: implicit_cosine(log, theirs),  # noqa: B023
            runs,
        )
        report("cooccurrence", name, "implicit CosineRecommender, 2 threads", *seconds, same)
        name = f"{name}, shipped defaults"
        defaults, plain = interleaved(
            name,
            lambda: ours(spark, log, mine, ItemCF()),  # noqa: B023
            lambda: ours(spark, log, mine),  # noqa: B023
            runs,
        )
        line = {
            "benchmark": "cooccurrence",
            "case": name,
            "ours_s": round(statistics.median(defaults), 4),
            "plain_counts_s": round(statistics.median(plain), 4),
            "runs": runs,
        }
        print(json.dumps(line), flush=True)
    spark.stop()


def against_self_join(folder: Path) -> None:
    """Once, both cold: each in its own process."""
    log = stored_log(folder, *SMALL)
    seconds = []
    for side in ("ours", "self_join"):
        start = time.perf_counter()
        command = [sys.executable, __file__, "--side", side, "--log", str(log)]
        subprocess.run([*command, "--folder", str(folder)], check=True)
        seconds.append([time.perf_counter() - start])
        say(f"{side}: {seconds[-1][0]:.1f} s")
    spark = session()
    same = equal(*(delta_rows(spark, folder / f"small-{s}") for s in ("ours", "self_join")))
    users, items, rows, activity = SMALL
    name = f"{users} users x {items} items, {rows} rows, {activity} users, top {TOP_K}, cold"
    report("cooccurrence", name, "DataFrame self-join + window", *seconds, same)
    spark.stop()


def main() -> None:
    """All cases, or one side of the cold one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "qarm-bench")
    parser.add_argument("--skip-join", action="store_true", help="leave out the slow self-join")
    activities = [activity for *_, activity in LARGE]
    parser.add_argument("--activity", nargs="+", choices=activities, default=activities)
    parser.add_argument("--side", choices=("ours", "self_join"), help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.side:
        side = ours if arguments.side == "ours" else self_join
        side(session(), arguments.log, arguments.folder / f"small-{arguments.side}")
        return
    against_implicit(arguments.folder, arguments.runs, arguments.activity)
    if not arguments.skip_join:
        against_self_join(arguments.folder)


if __name__ == "__main__":
    main()
