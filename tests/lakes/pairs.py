"""Logs as frames, and tiny Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyspark.sql import functions as F

from qarm.lake.caching import Keeper
from qarm.lake.tables import Lake, TableRef
from schemas import event_splits, id_vectors, interactions
from tests.lakes.encoders import tiny_text_model
from tests.pairs.reference import EPOCH, Event

__all__ = ["tiny_text_model"]

SCHEMA = "user_idx bigint, item_idx bigint, ts timestamp, seq bigint, weight double"


@pytest.fixture
def frame(spark):
    """Events -> DataFrame in several partitions."""

    def make(log: list[Event]):
        rows = [(e.user, e.item, e.ts, e.seq, e.weight) for e in log]
        return spark.createDataFrame(rows, SCHEMA).repartition(3)

    return make


@pytest.fixture
def keep() -> Iterator[Keeper]:
    """Keeps what a miner reads more than once, as the stage does."""
    with Keeper() as keeper:
        yield keeper


@pytest.fixture
def settings(spark):
    """Set Spark settings for a block."""

    @contextmanager
    def override(**values: str) -> Iterator[None]:
        names = {key: key.replace("__", ".") for key in values}
        before = {name: spark.conf.get(name) for name in names.values()}
        try:
            for key, value in values.items():
                spark.conf.set(names[key], value)
            yield
        finally:
            for name, value in before.items():
                spark.conf.set(name, value)

    return override


@pytest.fixture
def tiny_batches(settings):
    """Arrow batches of three rows and three partitions: groups are torn apart everywhere."""
    with settings(
        spark__sql__execution__arrow__maxRecordsPerBatch="3",
        spark__sql__shuffle__partitions="3",
        spark__sql__adaptive__coalescePartitions__enabled="false",
    ):
        yield


@pytest.fixture
def fill(spark, frame):
    """Write a log and its parts into a context's lake; minute 150 and later are test."""

    def write(context, log: list[Event], train_until: int = 150) -> list[Event]:
        # one row for each key of the table
        log = list({(e.user, e.item, e.minute): e for e in log}.values())
        rows = frame(log).select(
            "*",
            F.col("user_idx").cast("string").alias("user_id"),
            F.col("item_idx").cast("string").alias("item_id"),
            F.lit("click").alias("event"),
            (F.col("weight") > 0.6).alias("positive"),
            F.create_map(F.lit("positive"), F.lit(1.0).cast("float")).alias("labels"),
            F.lit(1).cast("bigint").alias("lines"),
            F.to_date("ts").alias("dt"),
        )
        start = int(EPOCH.timestamp()) + train_until * 60
        part = F.when(F.unix_seconds("ts") < start, "train").otherwise("test")
        context.overwrite(interactions.TABLE, rows)
        context.overwrite(
            event_splits.TABLE,
            rows.withColumn("split_id", F.lit("s1")).withColumn("part", part),
        )
        return [e for e in log if e.minute < train_until and e.weight > 0.6]

    return write


@pytest.fixture(scope="session")
def vectors_of_items(spark, tmp_path_factory) -> TableRef:
    """ID vectors of twenty items."""
    rows = [(i, [1.0, float(i), float(i * i % 5)], "own") for i in range(20)]
    table = spark.createDataFrame(rows, "item_idx bigint, vector array<float>, model string")
    lake = Lake(spark, str(tmp_path_factory.mktemp("vectors") / "lake"))
    return lake.overwrite(id_vectors.TABLE, table, {"stage": "test"})


@pytest.fixture
def make_miner(make_context, vectors_of_items):
    """Make contexts of stage mine-pairs with ID vectors of the user's own: without ALS."""

    def make(**sections):
        own = {"tables": {"id_vectors": vectors_of_items.path}}
        context = make_context("mine-pairs", external=own, **sections)
        context.adopted["id_vectors"] = vectors_of_items
        return context

    return make


@pytest.fixture
def without_item(spark):
    """A catalogue of twelve items, of which one has been removed."""

    def make(removed: int):
        rows = [(str(i), i, "x", "string", EPOCH if i == removed else None) for i in range(12)]
        schema = (
            "item_id string, item_idx bigint, content_hash string, source_type string, "
            "removed_at timestamp"
        )
        return spark.createDataFrame(rows, schema)

    return make
