"""Tables that ranks train on: order, row groups and lists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pyarrow import parquet
from pyspark.sql import DataFrame, SparkSession

from qarm.config.training import Loader
from qarm.errors import ConfigError
from qarm.lake.tables import Lake
from qarm.training.loader import WEIGHT, EpochLoader
from qarm.training.shards import readable
from qarm.training.writer import FixedList, in_training_order, row_bytes, row_groups
from schemas.table import Table, col

TABLE = Table(
    name="examples",
    comment="",
    columns=(
        col("id", "bigint", ""),
        col("part", "string", ""),
        col("history", "array<bigint>", ""),
        col("prices", "array<float>", ""),
    ),
    key=("id",),
    partition_by=("part",),
)
ROWS = 4_000
SHARDS = 4
LISTS = {"history": FixedList(3, -1), "prices": FixedList(2, 0.5)}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """Ids 0 to 3,999, a tenth of them valid; history counts up to the id and has id % 6 entries,
    which for 5 is null."""
    return spark.range(ROWS).selectExpr(
        "id",
        "IF(id % 10 = 0, 'valid', 'train') AS part",
        "CASE id % 6 WHEN 5 THEN NULL WHEN 0 THEN array() "
        "ELSE sequence(id - id % 6 + 1, id) END AS history",
        "IF(id % 2 = 0, array(1.5F, 2.5F), array(7.0F)) AS prices",
    )


def write(lake: Lake, rows: DataFrame, seed: int = 0) -> dict[str, list[str]]:
    """Files of each part."""
    ordered = in_training_order(rows, TABLE, about_rows=ROWS, shards=SHARDS, seed=seed, lists=LISTS)
    live = lake.live_files(lake.overwrite(TABLE, ordered, {}))
    return {part: [f for f in live if f"/part={part}/" in f] for part in ("train", "valid")}


def ids(files: list[str]) -> list[list[int]]:
    """Ids of each file, in order."""
    return [parquet.read_table(readable(f), columns=["id"])["id"].to_pylist() for f in files]


def test_the_same_rows_and_seed_give_the_same_files(rows, lake):
    first = {part: ids(files) for part, files in write(lake, rows).items()}
    moved = rows.repartition(5, "prices").sortWithinPartitions("history")
    assert {part: ids(files) for part, files in write(lake, moved).items()} == first
    other = ids(write(lake, rows, seed=1)["train"])
    assert other != first["train"]
    assert [set(found) for found in other] != [set(found) for found in first["train"]]


def test_files_are_one_row_group_each_alike_and_shuffled(rows, lake):
    files = write(lake, rows)
    assert [len(files[part]) for part in ("train", "valid")] == [SHARDS, SHARDS]
    every = files["train"] + files["valid"]
    assert {parquet.read_metadata(readable(f)).num_row_groups for f in every} == {1}
    found = ids(files["train"])
    assert sorted(i for file in found for i in file) == [i for i in range(ROWS) if i % 10]
    sizes = [len(file) for file in found]
    assert max(sizes) < 1.2 * min(sizes)
    for file in found:
        assert abs(np.corrcoef(file, range(len(file)))[0, 1]) < 0.15
        assert abs(np.mean(file) - ROWS / 2) < 0.1 * ROWS


def test_lists_become_matrices_of_the_latest_entries(rows, lake):
    files = write(lake, rows)["train"]
    lengths = {name: to.length for name, to in LISTS.items()}
    loader = EpochLoader(
        files,
        ["id", "history", "prices"],
        Loader(shards=SHARDS),
        batch_size=64,
        rank=0,
        world=1,
        seed=1,
        list_lengths=lengths,
    )
    seen = {}
    for batch in loader.epoch(0):
        assert batch["history"].shape == (64, 3)
        for place in np.flatnonzero(batch[WEIGHT].numpy()):
            values = batch["history"][place].tolist(), batch["prices"][place].tolist()
            seen[int(batch["id"][place])] = values
    for i in (i for i in range(ROWS) if i % 10):
        entries = [] if i % 6 == 5 else list(range(i - i % 6 + 1, i + 1))
        history = ([-1] * 3 + entries)[-3:]
        assert seen[i] == (history, [1.5, 2.5] if i % 2 == 0 else [0.5, 7.0]), i


@pytest.mark.parametrize(
    ("rows", "row_bytes", "shards", "expected"),
    [
        (0, 8, 8, 8),
        (8 * 4_095, 8, 8, 8),
        (8 * 2 * 4_096, 8, 8, 16),
        (8 * 3 * 4_096, 8, 8, 24),
        (24 * (32 << 10), 1 << 10, 8, 24),
        (24 * (32 << 10) + 1, 1 << 10, 8, 32),
        (10**9, 44, 6, 6 * 219),
    ],
)
def test_row_groups_are_a_multiple_of_the_shards_of_useful_size(rows, row_bytes, shards, expected):
    assert row_groups(rows, row_bytes, shards) == expected


def test_bytes_of_a_row_follow_from_the_types():
    assert row_bytes(TABLE, LISTS) == 8 + 16 + 3 * 8 + 2 * 4


def test_a_table_without_a_key_is_refused(rows):
    with pytest.raises(ConfigError, match="table examples has no key"):
        in_training_order(rows, replace(TABLE, key=()), about_rows=1, shards=1, seed=0)
