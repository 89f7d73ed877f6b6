"""Settings of Spark sessions that hold tens of rows."""

from __future__ import annotations

#: By default a shuffle has 200 partitions, and reading a table's log takes 50 tasks.
FEW_PARTITIONS = {
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.ui.enabled": "false",
}
