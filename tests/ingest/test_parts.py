"""Parts of the split for later stages."""

from __future__ import annotations

from datetime import datetime

import pytest

from qarm.errors import InputError
from qarm.ingest import parts

pytestmark = pytest.mark.spark
TS = datetime(2024, 1, 1)


@pytest.fixture(scope="module")
def tables(spark):
    """Interactions of user 0 with items 0, 1, 2, of which 1 is not positive; parts of all three."""
    events = spark.createDataFrame(
        [(0, item, "click", TS, item != 1, item, 1.0) for item in range(3)],
        "user_idx long, item_idx long, event string, ts timestamp, positive boolean, seq long, "
        "weight double",
    )
    splits = spark.createDataFrame(
        [(0, item, "click", TS, part) for item, part in enumerate(("train", "train", "test"))],
        "user_idx long, item_idx long, event string, ts timestamp, part string",
    )
    return events, splits


def test_mining_events_are_positives_of_the_wanted_parts(tables) -> None:
    assert [r["item_idx"] for r in parts.mining_events(*tables, ["train"]).collect()] == [0]
    assert parts.mining_events(*tables, ["mine"]).isEmpty()
    assert parts.mining_parts({"has_mine": True}) == ["mine"]
    assert parts.mining_parts({}) == ["train"]
    assert parts.training_parts({}) == ["mine", "train"]


def test_events_without_a_part_are_counted_and_shown(tables) -> None:
    events, splits = tables
    parts.check_every_event_has_a_part(events, splits, "mine.parquet")
    with pytest.raises(InputError, match=r"2 events .* \(mine\.parquet\), .*'item_idx': 0"):
        parts.check_every_event_has_a_part(events, splits.where("item_idx = 1"), "mine.parquet")
