"""Items and users from run to run: indices stay, changes are few."""

from __future__ import annotations

from datetime import datetime

import pytest
from pyspark.sql import functions as F

from qarm.errors import RowsLostError
from qarm.ingest import content, registry, table_rows
from qarm.lake.caching import Keeper
from schemas import items, users

pytestmark = pytest.mark.spark
EARLY, LATE = datetime(2024, 1, 1), datetime(2024, 2, 1)


def _catalog(spark, rows):
    """(item_id, title) as rows of the catalogue."""
    df = spark.createDataFrame(rows, "item_id string, title string")
    types = {c.name: c.type for c in items.TABLE.columns}
    for name in content.CONTENT:
        if name != "title":
            df = df.withColumn(name, F.lit(None).cast(types[name]))
    hashed = content.content_hash(F.col)
    return df.withColumn("content_hash", hashed).withColumn("source_type", F.lit("string"))


def _seen(spark, rows, name):
    return spark.createDataFrame(rows, f"{name} string, first_seen timestamp")


def test_items_over_two_runs(spark, lake) -> None:
    known = registry.existing(lake)
    assert (known.next_item, known.versions) == (0, {"items": -1, "users": -1})
    with Keeper() as keep:
        seen = _seen(spark, [("b", EARLY)], "item_id")
        first = registry.item_changes(_catalog(spark, [("a", "A"), ("b", "B")]), seen, known, keep)
        lake.overwrite(items.TABLE, first, {})
        known = registry.existing(lake)
        rows = {row["item_id"]: row["item_idx"] for row in known.items.collect()}
        assert rows == {"b": 0, "a": 1}  # by first event; those without one come last

        now = _catalog(spark, [("b", "B"), ("a", "A2"), ("c", "C")])
        changes = registry.item_changes(now, _seen(spark, [("c", LATE)], "item_id"), known, keep)
        found = {row["item_id"]: (row["item_idx"], row["title"]) for row in changes.collect()}
        assert found == {"a": (1, "A2"), "c": (2, "C")}  # b is unchanged
        gone = registry.items_removed(_catalog(spark, [("b", "B")]), known.items, LATE).collect()
        assert [(row["item_id"], row["removed_at"]) for row in gone] == [("a", LATE)]
        only = registry.named_by_log_only(
            _seen(spark, [("x", LATE), ("a", LATE)], "item_id"),
            _catalog(spark, [("b", "B")]),
            known.items,
            "string",
        )
        assert [row["item_id"] for row in only.collect()] == ["x"]  # a has content of its own
    counts = table_rows.catalog_written(known.items, _catalog(spark, [("b", "B")]))
    assert counts == {"present": 2, "removed": 0, "of_catalog": 1}
    with pytest.raises(RowsLostError, match="item_idx must be dense"):
        table_rows.catalog_written(known.items.where("item_idx = 1"), known.items)


def test_users_who_were_seen_earlier_are_updated(spark, lake) -> None:
    with Keeper() as keep:
        known = registry.existing(lake)
        seen = _seen(spark, [("v", EARLY), ("u", LATE)], "user_id")
        lake.overwrite(users.TABLE, registry.user_changes(seen, known, "bigint", keep), {})
        known = registry.existing(lake)
        assert known.next_user == 2
        again = _seen(spark, [("u", EARLY), ("v", LATE), ("w", LATE)], "user_id")
        changes = registry.user_changes(again, known, "bigint", keep).collect()
    found = {row["user_id"]: (row["user_idx"], row["first_seen"]) for row in changes}
    assert found == {"w": (2, LATE), "u": (1, EARLY)}
