from __future__ import annotations

import math

import pytest
from pyspark.sql import SparkSession

from qarm.alignment.pairs_table import (
    selected_pairs,
    sources_to_use,
    training_table,
    weights,
    with_part,
)
from qarm.errors import InputError

PAIRS = (
    "trigger bigint, target bigint, source string, split_id string, window_end string, "
    "miner_version string"
)


def test_weights_give_each_source_its_share() -> None:
    found = weights({"u2i": 100, "swing": 300}, {"u2i": 3.0, "swing": 1.0, "itemcf": 1.0}, {})
    assert found == pytest.approx({"u2i": 3.0, "swing": 1 / 3})
    assert 100 * found["u2i"] + 300 * found["swing"] == pytest.approx(400)


def test_no_pair_says_what_there_is() -> None:
    with pytest.raises(InputError, match=r"asks for \['swing'\], item_pairs has no rows; name the"):
        weights({}, {"swing": 1.0, "u2i": 0.0}, {})
    with pytest.raises(InputError, match=r"item_pairs has user \(7 rows\); name the sources"):
        weights({}, {"swing": 1.0}, {"user": 7})
    with pytest.raises(
        InputError, match=r"has swing \(7 rows\); every row of these sources names an item"
    ):
        weights({}, {"swing": 1.0}, {"swing": 7})


def test_sources_of_the_users_own_pairs() -> None:
    default = {"u2i": 1.0, "swing": 1.0}
    assert sources_to_use(default, ["user"]) == {"user": 1.0}
    assert sources_to_use(default, ["user", "swing"]) == default
    assert sources_to_use({"swing": 0.0}, ["swing"]) == {"swing": 1.0}
    assert sources_to_use({"user": 3.0}, ["user"]) == {"user": 3.0}
    assert sources_to_use(default, []) == default


@pytest.mark.spark
def test_every_pair_has_one_fate(spark: SparkSession) -> None:
    rows = [
        (1, 2, "swing", "s", "2020", "a"),
        (1, 2, "swing", "s", "2021", "b"),
        (1, 2, "u2i", "s", "2020", "a"),
        (1, 2, "itemcf", "s", "2020", "a"),
        (1, 2, "user", "s", "2020", "a"),
        (1, 9, "swing", "s", "2020", "a"),
        (9, 1, "swing", "s", "2020", "a"),
    ]
    live = spark.createDataFrame([(1,), (2,)], "item_idx bigint")
    sources = {"swing": 1.0, "u2i": 0.5, "itemcf": 0.0}
    found = selected_pairs(spark.createDataFrame(rows, PAIRS), live, sources)
    fates = sorted((r.trigger, r.target, r.source, r.fate) for r in found.collect())
    assert fates == [
        (1, 2, "itemcf", "other_source"),
        (1, 2, "swing", "kept"),
        (1, 2, "swing", "repeated"),
        (1, 2, "u2i", "kept"),
        (1, 2, "user", "other_source"),
        (1, 9, "swing", "removed_item"),
        (9, 1, "swing", "removed_item"),
    ]


@pytest.mark.spark
def test_mirror_images_are_in_one_part_and_the_share_is_kept(spark: SparkSession) -> None:
    rows = [(a, b, s) for a in range(40) for b in range(40) if a != b for s in ("u2i", "swing")]
    df = spark.createDataFrame(rows, "trigger bigint, target bigint, source string")
    found = with_part(df, 0.25, seed=1).collect()
    parts: dict[frozenset, set] = {}
    for row in found:
        parts.setdefault(frozenset((row.trigger, row.target)), set()).add(row.part)
    assert all(len(part) == 1 for part in parts.values())
    share = sum(row.part == "valid" for row in found) / len(found)
    assert 0.2 < share < 0.3
    other = with_part(df, 0.25, seed=2).collect()
    assert [r.part for r in other] != [r.part for r in found]


@pytest.mark.spark
def test_training_table_has_weights_and_log_chances(spark: SparkSession) -> None:
    rows = [
        (1, 2, "swing", "train"),
        (3, 2, "swing", "train"),
        (1, 4, "u2i", "train"),
        (5, 2, "swing", "valid"),
    ]
    columns = "trigger bigint, target bigint, source string, part string"
    df = training_table(spark.createDataFrame(rows, columns), {"swing": 0.75, "u2i": 1.5})
    found = {(r.trigger, r.target): r for r in df.collect()}
    assert len(found) == 4
    assert found[1, 4].weight == 1.5
    assert found[1, 2].trigger_logq == pytest.approx(math.log(2 / 3))
    assert found[1, 2].target_logq == pytest.approx(math.log(2 / 3))
    assert found[1, 4].target_logq == pytest.approx(math.log(1 / 3))
    assert found[5, 2].trigger_logq == pytest.approx(math.log(1 / 3))
