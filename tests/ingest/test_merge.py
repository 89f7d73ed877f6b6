"""Lines of one key."""

from __future__ import annotations

from datetime import datetime

import pytest
from pyspark.sql import functions as F

from qarm.ingest.merge import merge_lines

pytestmark = pytest.mark.spark
NOW = datetime(2024, 1, 1)
SCHEMA = (
    "shard string, item_id string, event string, ts timestamp, value double, weight double, "
    "label_a boolean, part_rank int, source_split string, note string"
)


@pytest.mark.parametrize(("how", "value"), [("sum", 5.0), ("max", 4.0), ("mean", 2.5)])
def test_values_weights_labels_and_parts(spark, how, value) -> None:
    lines = spark.createDataFrame(
        [
            ("u", "i", "e", NOW, 4.0, 1.0, False, 3, "test", "x"),
            ("u", "i", "e", NOW, 1.0, 0.5, True, 1, "train", "y"),
            ("u", "i", "e", NOW, None, 1.0, False, -1, None, None),
            ("u", "j", "e", NOW, None, 1.0, False, -1, None, None),
        ],
        SCHEMA,
    )
    merged = {r["item_id"]: r for r in merge_lines(lines, how, [F.col("note")]).collect()}
    both = merged["i"]
    assert (both["value"], both["weight"], both["label_a"], both["lines"]) == (value, 2.5, True, 3)
    assert (both["source_split"], both["part_rank"]) == ("test", 3)
    assert sorted(str(c["note"]) for c in both["contents"]) == ["None", "x", "y"]
    assert merged["j"]["value"] is None
    assert merged["j"]["user_id"] == "u"


def test_sums_do_not_depend_on_the_order_of_lines(spark) -> None:
    values = [1e16, 1.0, -1e16, 0.1, 3.3]
    rows = [("u", "i", "e", NOW, v, 1.0, False, -1, None, None) for v in values]
    sums = {
        merge_lines(spark.createDataFrame(r, SCHEMA).coalesce(1), "sum").first()["value"]
        for r in (rows, rows[::-1], rows[2:] + rows[:2])
    }
    assert len(sums) == 1
