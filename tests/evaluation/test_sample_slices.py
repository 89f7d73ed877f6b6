"""Slices on literal frames."""

from __future__ import annotations

import pytest

from qarm.evaluation.sample_slices import SLICES, head_threshold, membership


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


def test_membership_is_one_bit_a_slice(spark) -> None:
    rows = [(0, True), (4, False), (19, False), (20, False), (99, False), (100, True)]
    frame = spark.createDataFrame(rows, "item_train_events bigint, is_repeat boolean")
    bits = [row[0] for row in frame.select(membership(100)).collect()]
    names = [[name for i, name in enumerate(SLICES) if b >> i & 1] for b in bits]
    assert names == [
        ["all", "repeat", "cold", "lt5", "tail"],
        ["all", "new", "lt5", "tail"],
        ["all", "new", "tail"],
        ["all", "new", "torso"],
        ["all", "new", "torso"],
        ["all", "repeat", "head"],
    ]
