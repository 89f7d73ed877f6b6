"""A small catalogue whose content determines which items are bought together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pyspark.sql import SparkSession

from qarm.lake import manifest
from qarm.lake.tables import Lake
from schemas import TABLES
from tests.lakes.copies import copy_lake
from tests.lakes.encoders import ITEM_TYPE, item, tiny_text_model

__all__ = ["tiny_text_model"]

ITEMS = 60
GROUPS = 6
WORDS = ["abc", "fgh", "klm", "pqr", "uvw", "xyz"]


def group(index: int) -> int:
    """Items of a group are bought together."""
    return index % GROUPS


def catalogue() -> list[dict[str, Any]]:
    """60 items whose text and attributes hold the group and noise; some lack one or both."""
    rows = []
    for i in range(ITEMS):
        text = f"{WORDS[group(i)]} {WORDS[i // 7 % 6]} {i}" if i % 9 else None
        attributes = {"g": [str(group(i))], "n": [str(i % 7)]} if i % 4 else None
        rows.append(item(i, text=text, attributes=attributes))
    rows.append(item(ITEMS, text="gone", removed_at=datetime(2020, 1, 1)))
    return rows


def pairs() -> list[dict[str, Any]]:
    """Swing pairs of both directions and a few u2i pairs, within groups; rows to be dropped."""
    shared = {
        "split_id": "s",
        "window_end": datetime(2020, 1, 1),
        "miner_version": "v",
        "score": 1.0,
        "support": 2,
        "weight": 1.0,
        "last_ts": None,
    }
    rows = []
    for i in range(ITEMS):
        for j in range(i + GROUPS, ITEMS, GROUPS):
            rows += [{"trigger": a, "target": b, "source": "swing"} for a, b in ((i, j), (j, i))]
            if (i + j) % 3 == 0:
                rows.append({"trigger": i, "target": j, "source": "u2i"})
    rows.append({"trigger": 0, "target": ITEMS, "source": "swing"})  # removed
    rows.append({"trigger": 0, "target": 1, "source": "itemcf"})  # another source
    rows = [{**row, **shared} for row in rows]
    return [*rows, {**rows[0], "miner_version": "w"}]  # repeated


@pytest.fixture(scope="session")
def alignment_lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with items and pairs as their stages would have published them, to be copied."""
    lake = Lake(spark, str(tmp_path_factory.mktemp("alignment") / "lake"))
    schema = ", ".join(f"{c.name} {c.type}" for c in TABLES["item_pairs"].columns)
    for table, stage, rows, columns in (
        ("items", "ingest", catalogue(), ITEM_TYPE),
        ("item_pairs", "mine-pairs", pairs(), schema),
    ):
        df = spark.createDataFrame(rows, columns)  # type: ignore[type-var]
        ref = lake.overwrite(TABLES[table], df, {"stage": stage})
        manifest.publish(
            lake.root,
            manifest.Manifest(
                stage=stage,
                run_id="test",
                config_hash="",
                code_version="",
                inputs={},
                outputs={table: ref.as_dict()},
            ),
        )
    return lake


@pytest.fixture
def world(alignment_lake: Lake, lake: Lake) -> Callable[[], None]:
    """Fill the lake with the tables of ``alignment_lake``."""
    return lambda: copy_lake(alignment_lake, lake)
