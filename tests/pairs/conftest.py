"""Logs as frames, and tiny Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .reference import Event

SCHEMA = "user_idx bigint, item_idx bigint, ts timestamp, seq bigint, weight double"


@pytest.fixture
def frame(spark):
    """Events -> DataFrame in several partitions."""

    def make(log: list[Event]):
        rows = [(e.user, e.item, e.ts, e.seq, e.weight) for e in log]
        return spark.createDataFrame(rows, SCHEMA).repartition(3)

    return make


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
