"""Lakes that were prepared once, for tests that go on from there: copies, and earlier schemas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from delta.tables import DeltaTable

from qarm.lake.tables import Lake


def copy_lake(source: Lake, to: Lake) -> None:
    """Copy all files of ``source``; the manifests of the copy name its own tables and files."""
    shutil.copytree(source.root, to.root, dirs_exist_ok=True)
    for path in Path(to.root, "manifests").rglob("*.json"):
        path.write_text(path.read_text().replace(f"{source.root}/", f"{to.root}/"))


def drop_column(lake: Lake, table: str, column: str) -> None:
    """Turn a table into that of an earlier release, which did not have the column.

    Its rows stay; manifests that name the table name the version without the column.
    """
    path = lake.path(table)
    properties = DeltaTable.forPath(lake.spark, path).detail().first()["properties"]
    for name, rule in properties.items():
        if name.startswith("delta.constraints.") and column in rule:
            rule_name = name.removeprefix("delta.constraints.")
            lake.spark.sql(f"ALTER TABLE delta.`{path}` DROP CONSTRAINT {rule_name}")
    rows = lake.spark.read.format("delta").load(path).drop(column)
    rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(path)
    for each in Path(lake.root, "manifests").glob("*.json"):
        manifest = json.loads(each.read_text())
        if table in manifest["outputs"]:
            manifest["outputs"][table]["version"] = lake.version(table)
            each.write_text(json.dumps(manifest))
