"""Swing with caps of 200: ours against Spark SQL that meets each pair of users once.

    .venv/bin/python benchmarks/swing.py [--folder DIR] [--rows 500000]

The peer finds the pairs of users by a self-join on items, intersects their lists once per pair, and
explodes the pairs of common items. Both read the same log, in which no item has more than 200
users and no user more than 200 items, so that neither side has to sample and the results must be
equal: the 100 best pairs of each item. Both run in one warm session from Parquet to Delta: ours
--runs times, the slow peer once. ``equal``: the same scores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from logs import session, zipf_log
from timing import report, say, timed

from qarm.config.pairs import Swing
from qarm.lake.caching import Keeper
from qarm.pairs.swing import mine_swing

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CAP = 200
CONFIG = Swing(
    min_items_per_user=2,
    max_items_per_user=CAP,
    max_users_per_item=CAP,
    top_k=100,
    alpha2=1.0,
)


def capped_log(folder: Path, rows: int) -> Path:
    """About ``rows`` events in which no item has more than CAP users."""
    path = folder / f"swing-{rows}.parquet"
    if not path.exists():
        say(f"making {path.name}")
        asked = 3 * rows  # popular items lose most of theirs
        users, items = rows // 25, rows // 50
        table = zipf_log(users, items, asked, most=CAP)
        item = table["item_idx"].to_numpy()
        order = np.argsort(item, kind="stable")
        place = np.arange(len(item)) - np.searchsorted(item[order], item[order])
        kept = np.sort(order[place < CAP])[:rows]
        pq.write_table(table.take(pa.array(kept)), path)
    return path


def ours(spark: SparkSession, log: Path, out: Path) -> None:
    """Parquet -> Delta."""
    with Keeper() as kept:
        mined = mine_swing(spark.read.parquet(str(log)), CONFIG, 0, kept)
        mined.pairs.write.format("delta").mode("overwrite").save(str(out))


def in_sql(spark: SparkSession, log: Path, out: Path) -> None:
    """Parquet -> Delta, each pair of users once."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    events = spark.read.parquet(str(log)).select("user_idx", "item_idx").distinct()
    lists = events.groupBy("user_idx").agg(F.collect_list("item_idx").alias("items"))
    lists = lists.where(F.size("items") >= CONFIG.min_items_per_user)
    weight = F.pow(F.size("items") + F.lit(CONFIG.alpha1), F.lit(-CONFIG.beta))
    lists = lists.withColumn("w", weight)
    users = events.join(lists.select("user_idx"), "user_idx")
    one = users.withColumnRenamed("user_idx", "u")
    other = users.withColumnRenamed("user_idx", "v")
    pairs = one.join(other, "item_idx").where("u < v").select("u", "v").distinct()
    for side in ("u", "v"):
        named = lists.select(
            F.col("user_idx").alias(side),
            F.col("items").alias(f"{side}_items"),
            F.col("w").alias(f"{side}_w"),
        )
        pairs = pairs.join(named, side)
    common = F.array_intersect("u_items", "v_items")
    met = pairs.withColumn("common", common).where(F.size("common") >= 2)
    share = F.col("u_w") * F.col("v_w") / (F.lit(CONFIG.alpha2) + F.size("common"))
    first = met.select("common", share.alias("s"), F.explode("common").alias("trigger"))
    both = first.select("trigger", "s", F.explode("common").alias("target"))
    scored = both.where("trigger <> target").groupBy("trigger", "target")
    scored = scored.agg(F.sum("s").alias("score"))
    place = F.row_number().over(Window.partitionBy("trigger").orderBy(F.desc("score"), "target"))
    top = scored.withColumn("place", place).where(F.col("place") <= CONFIG.top_k)
    top.drop("place").write.format("delta").mode("overwrite").save(str(out))


def equal(spark: SparkSession, one: Path, other: Path) -> bool:
    """Whether each trigger has the same scores in the same order, to 1e-9 of their size.

    The partners themselves may differ where scores are equal on paper.
    """
    from pyspark.sql import functions as F

    left, right = (
        spark.read.format("delta")
        .load(str(path))
        .groupBy("trigger")
        .agg(F.sort_array(F.collect_list("score")).alias(name))
        for path, name in ((one, "a"), (other, "b"))
    )
    near = F.forall(
        F.arrays_zip("a", "b"), lambda x: F.abs(x["a"] - x["b"]) <= F.lit(1e-9) * F.abs(x["a"])
    )
    same = F.coalesce((F.size("a") == F.size("b")) & near, F.lit(False))
    joined = left.join(right, "trigger", "full")
    row = joined.agg(F.count("*").alias("n"), F.count_if(~same).alias("off")).first()
    assert row is not None
    say(f"{row['n']:,} triggers, {row['off']:,} differ")
    return bool(row["n"] and not row["off"])


def main() -> None:
    """One case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "qarm-bench")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    log = capped_log(arguments.folder, arguments.rows)
    rows = pq.read_metadata(log).num_rows
    mine, theirs = arguments.folder / "swing-ours", arguments.folder / "swing-sql"
    spark = session()
    for _ in range(3):  # warm: the JVM compiles what is called often
        ours(spark, log, mine)
    seconds = [timed(lambda: ours(spark, log, mine)) for _ in range(arguments.runs)]
    say(f"ours: {', '.join(f'{s:.2f}' for s in seconds)} s")
    slow = timed(lambda: in_sql(spark, log, theirs))
    say(f"Spark SQL: {slow:.1f} s")
    name = f"{rows} rows, at most {CAP} users per item and items per user, top {CONFIG.top_k}"
    same = equal(spark, mine, theirs)
    report("swing", name, "Spark SQL, user pairs once", seconds, [slow] * len(seconds), same)


if __name__ == "__main__":
    main()
