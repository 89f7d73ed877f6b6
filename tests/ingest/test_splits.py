"""Split kinds against their definitions."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

import pytest
from pyspark.sql import functions as F

from qarm.config import LogSource, Split
from qarm.errors import ConfigError, InputError
from qarm.ingest import merge, splits
from qarm.lake.caching import Keeper

pytestmark = pytest.mark.spark
START = datetime(2024, 1, 1)


def make_events(spark, moments: dict[str, list[int]], parts: list[str] | None = None):
    rows = [
        (user, f"i{k}", "view", START + timedelta(seconds=s), parts[k] if parts else None)
        for user, seconds in moments.items()
        for k, s in enumerate(seconds)
    ]
    schema = "user_id string, item_id string, event string, ts timestamp, source_split string"
    return merge.with_order(spark.createDataFrame(rows, schema))


def parts_of(spark, events, split: Split) -> dict[tuple[str, int], str]:
    with Keeper() as keep:
        rows = splits.assign(events, split, keep).collect()
    return {(row["user_id"], row["seq"]): row["part"] for row in rows}


def test_global_cuts_lie_at_row_quantiles_and_never_through_an_instant(spark) -> None:
    moments = {"u": list(range(10)), "v": [k * 10 for k in range(10)]}
    split = Split(kind="global", mine=0.2, train=0.4, valid=0.2)
    events = make_events(spark, moments)
    with Keeper() as keep:
        rows = splits.assign(events, split, keep).collect()
    by_part = defaultdict(list)
    for row in rows:
        by_part[row["part"]].append((row["ts"] - START).total_seconds())
    # Sorted: 0 0 1 2 | 3 4 5 6 7 8 9 10 | 20 30 40 50 | 60 70 80 90
    assert sorted(by_part["mine"]) == [0, 0, 1, 2]
    assert sorted(by_part["train"]) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert sorted(by_part["valid"]) == [20, 30, 40, 50]
    assert sorted(by_part["test"]) == [60, 70, 80, 90]


def test_global_events_at_the_cut_all_go_to_the_later_part(spark) -> None:
    events = make_events(spark, {"u": [0, 1, 2, 5], "v": [5, 5, 5, 9], "w": [5, 9]})
    # Sorted: 0 1 2 5 5 5 5 5 9 9; the cut for .5 is row 5, inside the run of fives.
    split = Split(kind="global", train=0.5, valid=0.3)
    with Keeper() as keep:
        rows = splits.assign(events, split, keep).collect()
    found = {((r["ts"] - START).total_seconds(), r["part"]) for r in rows}
    assert found == {(0, "train"), (1, "train"), (2, "train"), (5, "valid"), (9, "test")}


def test_global_needs_an_event_before_the_cut(spark) -> None:
    events = make_events(spark, {"u": [5], "v": [5], "w": [5]})
    with Keeper() as keep, pytest.raises(InputError, match="share one time"):
        splits.assign(events, Split(kind="global"), keep)


def test_per_user_goes_by_the_middle_of_each_place(spark) -> None:
    events = make_events(spark, {"long": list(range(10)), "short": [3, 1], "one": [7]})
    found = parts_of(spark, events, Split(kind="per_user", mine=0.1, train=0.6, valid=0.1))
    expected = ["mine", *["train"] * 6, "valid", "test", "test"]
    assert [found["long", k] for k in range(10)] == expected
    assert [found["short", k] for k in range(2)] == ["train", "valid"]  # .25 and .75
    assert found["one", 0] == "train"  # .5


def test_leave_last_n(spark) -> None:
    events = make_events(spark, {"u": list(range(6)), "v": [0, 1], "w": [0]})
    split = Split(kind="leave_last_n", mine=0.3, valid_events=2, test_events=1)
    found = parts_of(spark, events, split)
    assert [found["u", k] for k in range(6)] == [
        *("mine", "mine", "train", "valid", "valid", "test")
    ]
    assert [found["v", k] for k in range(2)] == ["valid", "test"]
    assert found["w", 0] == "test"


def test_column_maps_values_and_takes_part_names_as_they_are(spark) -> None:
    split = Split(kind="column", column_values={"A": "train", "valid": "test"})
    events = make_events(spark, {"u": [0, 1, 2]}, ["A", "mine", "valid"])
    rank = splits.part_rank(F.col("source_split"), split)
    found = parts_of(spark, events.withColumn("part_rank", rank), split)
    assert [found["u", k] for k in range(3)] == ["train", "mine", "test"]


def test_order_breaks_ties_by_a_hash(spark) -> None:
    moments = {f"u{n}": [0] * 8 for n in range(6)}
    rows = make_events(spark, moments).collect()
    orders = {
        tuple(r["item_id"] for r in sorted(rows, key=lambda r: r["seq"]) if r["user_id"] == user)
        for user in moments
    }
    assert len(orders) > 1  # by item id all users would have the same
    assert all(len(set(order)) == 8 for order in orders)


def test_identity_of_a_split_is_its_parameters() -> None:
    log = LogSource(split="fold")
    one = splits.split_id(Split(kind="global", train=0.7), log)
    assert one == splits.split_id(Split(kind="global", train=0.7, valid_events=3), log)
    assert one != splits.split_id(Split(kind="global", train=0.8), log)
    assert one.startswith("global-")
    with pytest.raises(ConfigError, match=r"split\.mine"):
        splits.parameters(Split(kind="column", mine=0.2), log)
    with pytest.raises(ConfigError, match=r"order.*per_user or leave_last_n"):
        splits.parameters(Split(kind="global"), LogSource(time_format="order"))
    assert splits.parameters(Split(kind="per_user"), LogSource(time_format="order"))
    with pytest.raises(ConfigError, match=r"log\.split"):
        splits.parameters(Split(kind="column"), LogSource())


def own_parts(spark, moments: dict[str, list[int]], parts: list[str], order_only: bool = False):
    events = make_events(spark, moments, parts)
    split = Split(kind="column", valid_share=0.25)
    events = events.withColumn("part_rank", splits.part_rank(F.col("source_split"), split))
    with Keeper() as keep:
        rows = splits.assign(events, split, keep, order_only=order_only).collect()
    return {(row["user_id"], row["seq"]): row["part"] for row in rows}


def test_a_split_of_the_logs_own_without_valid_gets_the_latest_of_train(spark) -> None:
    moments = {"u": [0, 1, 2, 3, 9], "v": [4, 5, 6, 7, 8]}
    found = own_parts(spark, moments, ["train"] * 4 + ["test"])
    assert {key for key, part in found.items() if part == "valid"} == {("v", 2), ("v", 3)}
    assert {key for key, part in found.items() if part == "test"} == {("u", 4), ("v", 4)}
    found = own_parts(spark, moments, ["train"] * 4 + ["test"], order_only=True)
    assert {key for key, part in found.items() if part == "valid"} == {("u", 3), ("v", 3)}
    same = {"u": [1, 1, 1, 1, 9], "v": [1, 1, 1, 1, 9]}  # no instant to cut at
    found = own_parts(spark, same, ["train"] * 4 + ["test"])
    assert {key for key, part in found.items() if part == "valid"} == {("u", 3), ("v", 3)}


def test_a_valid_part_of_the_log_is_left_alone(spark) -> None:
    parts = ["train", "train", "valid", "test"]
    found = own_parts(spark, {"u": [0, 1, 2, 3]}, parts)
    assert [found["u", k] for k in range(4)] == parts
