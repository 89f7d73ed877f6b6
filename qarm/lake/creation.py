"""Make a Delta table from its schema, and bring one of an earlier release up to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qarm.errors import SchemaError
from qarm.lake import files
from schemas.table import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


def create_table(spark: SparkSession, path: str, table: Table, *, replace: bool = False) -> None:
    """Create the table from its schema, with constraints and properties, unless it exists.

    A table of an earlier release keeps its rows: columns that it lacks are added, and are null
    there; constraints are updated.

    Args:
        spark: the session.
        path: URI of the table.
        table: the schema.
        replace: all rows are about to be written anew, so that a table with other columns is
            replaced (labels, for example, depend on the configuration). Its older versions stay
            readable.

    Raises:
        SchemaError: the table there has columns that the schema does not know, of another type,
            or it lacks one that must not be null; nothing was changed.
    """
    from delta.tables import DeltaTable

    builder = DeltaTable.create(spark)
    if DeltaTable.isDeltaTable(spark, path):
        df = spark.read.format("delta").load(path)
        if not replace:
            _add_columns(spark, path, table, df)
        if replace and not _same_columns(df, table):
            builder = DeltaTable.replace(spark)
        else:
            _renew_constraints(spark, path, table, df)
            return
    _remove_empty_log(path)
    builder = builder.location(path).comment(table.comment)
    for column in table.columns:
        builder = builder.addColumn(
            column.name, column.type, nullable=column.nullable, comment=column.comment
        )
    if table.partition_by:
        builder = builder.partitionedBy(*table.partition_by)
    for key, value in table.all_properties.items():
        builder = builder.property(key, value)
    for name, condition in table.constraints.items():
        builder = builder.property(f"delta.constraints.{name}", condition)
    builder.execute()


def _remove_empty_log(path: str) -> None:
    """Remove a ``_delta_log`` without a commit, as a full disk leaves it.

    Spark takes such a folder for a table that is there and can neither be read nor created.
    """
    log = files.join(path, "_delta_log")
    if files.exists(log) and not any(
        n.endswith((".json", ".parquet")) for n in files.list_dir(log)
    ):
        files.remove_tree(log)


def _add_columns(spark: SparkSession, path: str, table: Table, there: DataFrame) -> None:
    """Add the columns that a later schema has; rows stay, and have null in them."""
    seen = {field.name: field.dataType for field in there.schema}
    wanted = {field.name: field.dataType for field in struct_of(table)}
    where = f"{path}: table {table.name}"
    if unknown := sorted(seen.keys() - wanted.keys()):
        raise SchemaError(
            f"{where} has columns {unknown}, which this version of qarm does not know: it was "
            "written by a later version, or by another program. Use that version, or another "
            "lake"
        )
    if other := [name for name in seen if seen[name] != wanted[name]]:
        types = {name: seen[name].simpleString() for name in other}
        expected = {name: wanted[name].simpleString() for name in other}
        raise SchemaError(
            f"{where} has columns of type {types}, expected {expected}; start a new lake, or "
            "rewrite the table with these types"
        )
    new = [column for column in table.columns if column.name not in seen]
    if required := [column.name for column in new if not column.nullable]:
        raise SchemaError(
            f"{where} lacks columns {required}, which must not be null: it was written by an "
            "earlier version whose rows cannot be taken over; start a new lake"
        )
    if new:
        columns = ", ".join(
            f"`{column.name}` {column.type} COMMENT '{_quoted(column.comment)}'" for column in new
        )
        spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMNS ({columns})")


def _renew_constraints(spark: SparkSession, path: str, table: Table, there: DataFrame) -> None:
    """Replace the table's constraints that differ from those of its schema."""
    properties = snapshot_of(there).metadata().configuration()  # Scala's map
    where = f"delta.`{path}`"
    for name, condition in table.constraints.items():
        key = f"delta.constraints.{name.lower()}"
        # ADD CONSTRAINT changes the spaces between the words.
        if properties.contains(key) and _solid(properties.apply(key)) == _solid(condition):
            continue
        spark.sql(f"ALTER TABLE {where} DROP CONSTRAINT IF EXISTS {name}")
        spark.sql(f"ALTER TABLE {where} ADD CONSTRAINT {name} CHECK ({condition})")


def struct_of(table: Table) -> StructType:
    """The schema as Spark has it."""
    from pyspark.sql.types import StructType

    parsed = StructType.fromDDL(", ".join(f"`{c.name}` {c.type}" for c in table.columns))
    assert isinstance(parsed, StructType)
    return parsed


def _same_columns(df: DataFrame, table: Table) -> bool:
    return [(f.name, f.dataType) for f in df.schema] == [
        (f.name, f.dataType) for f in struct_of(table)
    ]


def _quoted(text: str) -> str:
    """``text`` within single quotes of Spark SQL."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _solid(sql: str) -> str:
    return "".join(sql.split())


def snapshot_of(df: DataFrame) -> Any:
    """Delta's snapshot (a Java object) behind a frame that only reads a table."""
    leaf = df._jdf.queryExecution().analyzed().collectLeaves().head()
    return leaf.relation().location().getSnapshot()
