"""What a table of the lake is: columns, key, constraints and Delta properties, in one place.

Reading, writing, validation, tests and the reference page of the docs all come from these
declarations. Nothing here imports Spark, so that a schema can be read anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Properties of every table. Deletion vectors and column mapping stay off because training reads
#: the Parquet files of a snapshot directly; files outlive a removal for longer than any run lasts.
BASE_PROPERTIES = {
    "delta.enableDeletionVectors": "false",
    "delta.columnMapping.mode": "none",
    "delta.deletedFileRetentionDuration": "interval 30 days",
    "delta.logRetentionDuration": "interval 90 days",
}

CHANGE_FEED = {"delta.enableChangeDataFeed": "true"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its Spark SQL type and what its values mean."""

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
    """Columns that identify a row; empty where rows have no identity."""
    constraints: dict[str, str] = field(default_factory=dict)
    """CHECK constraints: name -> SQL that must not be false."""
    properties: dict[str, str] = field(default_factory=dict)
    partition_by: tuple[str, ...] = ()

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in order."""
        return [column.name for column in self.columns]

    @property
    def all_properties(self) -> dict[str, str]:
        """Table properties with the ones every table has.

        Statistics are kept for scalar columns only: min and max of a vector help nobody.
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
    """Shorthand for a column; not nullable unless said so."""
    return Column(name=name, type=type, comment=comment, nullable=nullable)
