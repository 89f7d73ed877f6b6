"""Declarations of tables: columns, key, constraints and Delta properties.

Reading, writing, validation, tests and the reference page of the docs use these declarations.
Nothing here imports Spark.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Properties of every table. Deletion vectors and column mapping are off because training reads the
#: Parquet files of a snapshot directly; removed files are retained for longer than any run takes.
BASE_PROPERTIES = {
    "delta.enableDeletionVectors": "false",
    "delta.columnMapping.mode": "none",
    "delta.deletedFileRetentionDuration": "interval 30 days",
    "delta.logRetentionDuration": "interval 90 days",
}

CHANGE_FEED = {"delta.enableChangeDataFeed": "true"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its Spark SQL type and the meaning of its values."""

    name: str
    type: str
    """Spark SQL type, such as ``bigint`` or ``array<float>``."""
    comment: str
    """Meaning, unit, and what null means."""
    nullable: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """One Delta table."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    """Columns that identify a row; empty if rows have no key."""
    constraints: dict[str, str] = field(default_factory=dict)
    """CHECK constraints: name -> SQL condition that must hold."""
    properties: dict[str, str] = field(default_factory=dict)
    partition_by: tuple[str, ...] = ()

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in order."""
        return [column.name for column in self.columns]

    @property
    def all_properties(self) -> dict[str, str]:
        """Table properties, including those of every table.

        Statistics are kept for scalar columns only: those of vectors cannot skip files.
        """
        scalars = sum(1 for c in self.columns if "<" not in c.type and c.type != "binary")
        indexed = {"delta.dataSkippingNumIndexedCols": str(min(scalars, 32))}
        return {**BASE_PROPERTIES, **indexed, **self.properties}

    def ddl(self) -> str:
        """The columns as a Spark DDL string, ``name type [NOT NULL], ...``."""
        return ", ".join(
            f"`{c.name}` {c.type}" + ("" if c.nullable else " NOT NULL") for c in self.columns
        )


def col(name: str, type: str, comment: str, *, nullable: bool = False) -> Column:
    """A column; not nullable by default."""
    return Column(name=name, type=type, comment=comment, nullable=nullable)
