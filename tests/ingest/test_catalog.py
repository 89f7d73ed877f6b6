"""The catalogue made from the lines of a log."""

from __future__ import annotations

import pytest

from qarm.config import ItemSource
from qarm.ingest import catalog
from qarm.ingest.sources import FILE

pytestmark = pytest.mark.spark


def test_most_frequent_value_of_the_training_period_first(spark) -> None:
    raw = spark.createDataFrame([], f"name string, price double, {FILE} string")
    events = spark.createDataFrame(
        [
            ("a", "train", [("Lamp", 2.0), ("Lamp ", 3.0)]),
            ("a", "mine", [("lamp?", 3.0)]),
            ("a", "test", [("LAMP", 9.0)] * 5),
            ("b", "train", [(None, 1.0), (" ", 1.0)]),
            ("b", "valid", [("Late name", 5.0)]),
            ("c", "test", [("Zoo", 7.0), ("Ant", 7.0)]),
            ("d", "train", [(None, None)]),
        ],
        "item_id string, part string, contents array<struct<c0: string, c1: double>>",
    )
    items = ItemSource(
        from_log=True, title="name", text=["name"], numeric_attributes={"price": [2, 5, 8]}
    )
    made = catalog.from_lines(events, raw, items, "int")
    found = {r["item_id"]: r.asDict(recursive=True) for r in made.collect()}
    assert {k: v["title"] for k, v in found.items()} == {
        "a": "Lamp",  # trimmed; five later lines do not outvote two of training
        "b": "Late name",  # no name in training
        "c": "Ant",  # a tie: the smallest
        "d": None,
    }
    assert found["a"]["attributes"] == {"price": ["[2,5)"]}
    assert found["b"]["attributes"] == {"price": ["(-inf,2)"]}
    assert found["d"]["attributes"] is None
    assert {v["source_type"] for v in found.values()} == {"int"}
    assert len({v["content_hash"] for v in found.values()}) == 4
