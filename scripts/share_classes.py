"""Archive the JVM classes of Spark and Delta, so that later JVMs of this environment start faster.

A JVM maps the archive instead of loading and verifying about 15,000 classes again (HotSpot's class
data sharing). The archive is only a cache: a JVM of another version, or with other jars, silently
ignores it. ``benchmarks/session.py`` measures the start of a session with and without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qarm.session import class_archive, open_session


def main() -> None:
    """Use what the stages use, in a JVM that archives its classes when it exits."""
    from delta.tables import DeltaTable
    from pyspark.sql import functions as F

    archive = class_archive()
    archive.unlink(missing_ok=True)
    unfinished = archive.with_suffix(".part")
    quiet = "-Xlog:disable -Xlog:all=error:stderr -XX:TieredStopAtLevel=1"
    quiet += " -XX:+IgnoreUnrecognizedVMOptions"  # a Java without archives must not stop the set-up
    os.environ["SPARK_SUBMIT_OPTS"] = f'{quiet} -XX:ArchiveClassesAtExit="{unfinished}"'
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    spark = open_session("qarm set-up", master="local[2]", settings={"spark.ui.enabled": "false"})
    with tempfile.TemporaryDirectory() as folder:
        rows = spark.range(100).withColumn("v", F.array(F.col("id").cast("float")))
        plain, table = f"{folder}/plain", f"{folder}/table"
        rows.repartition("id").write.parquet(plain)
        rows = spark.read.parquet(plain).mapInArrow(lambda batches: batches, rows.schema)
        rows.write.format("delta").save(table)
        merged = DeltaTable.forPath(spark, table).alias("t").merge(rows.alias("s"), "t.id = s.id")
        merged.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
        counted = spark.read.format("delta").load(table).groupBy("v").count().orderBy("v")
        counted.join(rows, "v").toArrow()
    jvm = spark.sparkContext._gateway.proc
    spark.stop()
    jvm.stdin.close()
    try:
        jvm.wait(timeout=120)
    except subprocess.TimeoutExpired:
        jvm.kill()
    if unfinished.exists():
        unfinished.rename(archive)
    else:
        print(
            "    this Java cannot archive classes; JVMs start without an archive", file=sys.stderr
        )


if __name__ == "__main__":
    main()
