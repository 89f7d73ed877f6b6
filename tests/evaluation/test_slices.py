"""Slices on literal frames."""

from __future__ import annotations

import pytest

from qarm.evaluation.slices import (
    BITS,
    SAMPLE_SLICES,
    head_threshold,
    reported,
    sample_bits,
    slices_of,
    with_item_slices,
)


def _events(spark, counts: dict[int, int]):
    rows = [(item,) for item, n in counts.items() for _ in range(n)]
    return spark.createDataFrame(rows, "item_idx bigint")


@pytest.mark.parametrize(
    ("counts", "edge"),
    [
        ({i: 10 * (i + 1) for i in range(20)}, 190),  # 200 and 190 of 20 items
        ({i: 10 * (i + 1) for i in range(21)}, 190),  # a tenth of 21 is 2.1: three items
        (dict.fromkeys(range(10), 50), 50),  # ties at the edge
        (dict.fromkeys(range(10), 3), 20),  # nobody is popular
    ],
)
def test_head_is_the_top_tenth_of_items(spark, counts, edge) -> None:
    assert head_threshold(_events(spark, counts)) == edge


def test_head_without_events(spark) -> None:
    assert head_threshold(_events(spark, {})) == 20


def test_samples_have_one_bit_per_slice(spark) -> None:
    rows = [(0, True), (4, False), (19, False), (20, False), (99, False), (100, True)]
    frame = spark.createDataFrame(rows, "item_train_events bigint, is_repeat boolean")
    bits = [row[0] for row in frame.select(sample_bits(100)).collect()]
    names = [[name for i, name in enumerate(SAMPLE_SLICES) if b >> i & 1] for b in bits]
    assert names == [
        ["all", "repeat", "cold", "lt5", "tail"],
        ["all", "new", "lt5", "tail"],
        ["all", "new", "tail"],
        ["all", "new", "torso"],
        ["all", "new", "torso"],
        ["all", "repeat", "head"],
    ]


def test_items_have_one_bit_per_slice(spark) -> None:
    """Training events of items 0 to 3; item 4 has only a test event, item 5 none."""
    events = {0: 100, 1: 30, 2: 19, 3: 4}
    rows = [(item, part) for item, n in events.items() for part in ["train"] * (n - 1) + ["mine"]]
    splits = spark.createDataFrame(
        [*rows, (0, "test"), (4, "test")], "item_idx bigint, part string"
    )
    items = spark.createDataFrame([(i,) for i in range(6)], "item_idx bigint")
    sliced = with_item_slices(items, splits, ["mine", "train"])
    assert sliced.columns == ["item_idx", BITS]
    assert {row[0]: slices_of(row[1]) for row in sliced.collect()} == {
        0: ["all", "known", "head"],
        1: ["all", "known", "torso"],
        2: ["all", "known", "tail"],
        3: ["all", "known", "lt5", "tail"],
        4: ["all", "later", "lt5", "tail"],
        5: ["all", "never", "lt5", "tail"],
    }
    without_log = with_item_slices(items, None, ["train"]).select(BITS).distinct().collect()
    assert [slices_of(row[0]) for row in without_log] == [["all"]]


def test_slices_of_all_or_no_items_are_not_reported() -> None:
    counts = {"all": 9, "known": 9, "never": 0, "head": 2, "lt5": 4}
    assert reported(counts) == ["all", "lt5", "head"]
