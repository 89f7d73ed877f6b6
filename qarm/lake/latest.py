"""Partial results that a stage keeps for itself from run to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.lake.tables import Lake, TableRef

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context
    from schemas import Table


def latest(lake: Lake, table: Table) -> DataFrame:
    """The latest version of a stage's own partial table, pinned; empty where there is none.

    Everybody else's tables are read at published versions (``Context.table``). A partial table is
    brought up to date by whoever reads it, and what says how far it got is written last, so that
    after a crash its latest version is the right one.
    """
    lake.create(table)
    return lake.read(TableRef(table.name, lake.path(table.name), lake.version(table.name)))


def publish_again(context: Context, *tables: Table) -> None:
    """Publish the latest versions of a stage's own partial tables: a run that changes nothing."""
    for table in tables:
        context.pin(table, context.lake.version(table.name))
