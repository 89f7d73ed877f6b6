"""Delta tables defined by ``schemas/``: create, validate, write, merge, read at a version."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from qarm.errors import ConflictError, InputError, SchemaError
from qarm.lake import files
from qarm.lake.creation import create_table, snapshot_of, struct_of
from schemas import TABLES
from schemas.table import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
#: Delta's error classes for a commit that another writer's has overtaken.
_OVERTAKEN = re.compile(r"DELTA_CONCURRENT_\w+|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED")
#: Delta's idempotent writes: a number per application that only grows.
_TXN_APPLICATION = "spark.databricks.delta.write.txnAppId"
_TXN_VERSION = "spark.databricks.delta.write.txnVersion"
#: Largest number in a vector.
_LARGEST = 1e16
#: Delta's error classes for a broken CHECK or NOT NULL.
_RULE = re.compile(r"DELTA_VIOLATE_CONSTRAINT_WITH_VALUES|DELTA_NOT_NULL_CONSTRAINT_VIOLATED")


@dataclass(frozen=True)
class TableRef:
    """A table at one version."""

    name: str
    path: str
    version: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def conform(df: DataFrame, table: Table, where: str) -> DataFrame:
    """``df`` with exactly the table's columns in order, cast where no value can be lost.

    Args:
        df: rows, perhaps with more columns.
        table: the schema.
        where: what the rows are, for messages.

    Raises:
        SchemaError: a column is missing, or its type cannot be widened to that of the schema.
    """
    from pyspark.sql import functions as F

    wanted = struct_of(table)
    missing = [c.name for c in table.columns if c.name not in df.columns and not c.nullable]
    if missing:
        raise SchemaError(
            f"{where}: table {table.name} needs column(s) {missing}; seen {df.columns}. "
            f"Expected columns: {table.ddl()}"
        )
    columns = []
    for expected in wanted:
        name = expected.name
        if name not in df.columns:
            columns.append(F.lit(None).cast(expected.dataType).alias(name))
            continue
        seen = df.schema[name].dataType.simpleString()
        asked = expected.dataType.simpleString()
        if seen != asked and not _widens(seen, asked):
            raise SchemaError(
                f"{where}: column {name} of table {table.name} should be {asked}, is {seen}; "
                "cast it first"
            )
        columns.append(F.col(f"`{name}`").cast(expected.dataType).alias(name))
    return df.select(*columns)


def _widens(seen: str, asked: str) -> bool:
    for container in ("array", "map"):
        if seen.startswith(f"{container}<") and asked.startswith(f"{container}<"):
            pairs = zip(
                seen[len(container) + 1 : -1].split(","),
                asked[len(container) + 1 : -1].split(","),
                strict=False,
            )
            return all(a == b or _widens(a, b) for a, b in pairs)
    integers = ["tinyint", "smallint", "int", "bigint"]
    if seen in integers and asked in integers:
        return integers.index(seen) <= integers.index(asked)
    if asked == "double":
        return seen in ("float", *integers) or seen.startswith("decimal")
    if asked == "float":  # vectors often come as doubles; all models use float32
        return seen in ("double", "tinyint", "smallint") or seen.startswith("decimal")
    return seen in ("void", "timestamp_ntz") and asked in ("timestamp", "string")


def check_vectors(df: DataFrame, column: str, where: str) -> int:
    """Dimensions of the vectors in ``column``.

    Raises:
        InputError: a vector is null, has NaN, infinity or a number beyond 1e16, or lengths differ;
            gives the counts.
    """
    from pyspark.sql import functions as F

    value = F.col(column)
    infinite = float("inf")
    not_finite = F.exists(value, lambda x: F.isnan(x) | (F.abs(x) == infinite) | x.isNull())
    # Squares of float32 overflow at 1.8e19, and searches are exact up to a length of 1e18.
    too_large = F.exists(value, lambda x: (F.abs(x) > _LARGEST) & (F.abs(x) < infinite))
    row = df.agg(
        F.count("*").alias("rows"),
        F.count_if(value.isNull()).alias("nulls"),
        F.count_if(not_finite).alias("bad"),
        F.count_if(too_large).alias("large"),
        F.min(F.size(value)).alias("least"),
        F.max(F.size(value)).alias("most"),
    ).first()
    assert row is not None
    if row["nulls"] or row["bad"]:
        raise InputError(
            f"{where}: column {column} has {row['bad']} vectors with NaN or infinity and "
            f"{row['nulls']} nulls among {row['rows']} rows; remove or correct such items"
        )
    if row["large"]:
        raise InputError(
            f"{where}: column {column} has {row['large']} vectors with a number beyond "
            f"{_LARGEST:g} among {row['rows']} rows, too large for distances in float32; divide "
            "all vectors by the same number"
        )
    if row["least"] != row["most"]:
        raise InputError(
            f"{where}: vectors in {column} must have one length, seen {row['least']} to "
            f"{row['most']}"
        )
    return int(row["most"] or 0)


class Lake:
    """The Delta tables under one root. Every commit stores ``lineage`` as its user metadata."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark = spark
        self.root = files.absolute(root)

    def path(self, name: str) -> str:
        """URI of a table."""
        return files.join(self.root, "tables", name)

    def version(self, name: str) -> int:
        """Latest committed version; -1 if the table does not exist."""
        from delta.tables import DeltaTable

        path = self.path(name)
        if not DeltaTable.isDeltaTable(self.spark, path):
            return -1
        # The table's history would take a Spark job.
        return int(snapshot_of(self.spark.read.format("delta").load(path)).version())

    def create(self, table: Table, *, replace: bool = False) -> None:
        """Create the table unless it exists; see ``creation.create_table``."""
        create_table(self.spark, self.path(table.name), table, replace=replace)

    @contextmanager
    def _commit(
        self, table: Table, lineage: Mapping[str, Any], before: int, drawn_at: int | None
    ) -> Iterator[Callable[[], TableRef]]:
        """Store ``lineage`` in the commit made within; gives what finds that commit afterwards.

        Args:
            table: what is written to.
            lineage: metadata of the commit.
            before: version of the table; 0: nothing has been written yet, so that the first writer
                wins.
            drawn_at: as ``merge`` has it.

        Raises:
            SchemaError: a row breaks a constraint.
            ConflictError: another writer has committed meanwhile.
        """
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        path = self.path(table.name)
        token = uuid.uuid4().hex
        settings = {
            _USER_METADATA: json.dumps({**lineage, "commit": token}, sort_keys=True, default=str)
        }
        first_only = before == 0 or drawn_at is not None
        if first_only:
            # Delta commits nothing if this number, or a larger one, has been committed before.
            number = max(drawn_at or 0, 0) + 1
            settings |= {_TXN_APPLICATION: "qarm-numbers", _TXN_VERSION: str(number)}
        for name, value in settings.items():
            self.spark.conf.set(name, value)

        def committed() -> TableRef:
            version = _version_of_commit(path, token, before, self.version(table.name))
            if version is None and first_only:
                raise _conflict(path, lineage)
            return TableRef(table.name, path, before if version is None else version)

        try:
            yield committed
        except (Py4JJavaError, PySparkException) as error:
            if _OVERTAKEN.search(str(error)):
                raise _conflict(path, lineage) from error
            broken = [line for line in str(error).splitlines() if _RULE.search(line)]
            if not broken:
                raise
            raise SchemaError(
                f"stage {lineage.get('stage')}: a row breaks a rule of table {table.name}: "
                f"{_RULE.split(broken[0])[-1].strip('] ')} Nothing was written."
            ) from error
        finally:
            for name in settings:
                self.spark.conf.unset(name)

    def overwrite(
        self,
        table: Table,
        df: DataFrame,
        lineage: Mapping[str, Any],
        *,
        drawn_at: int | None = None,
    ) -> TableRef:
        """Replace all rows in one commit; ``drawn_at`` and errors as in ``merge``."""
        self.create(table, replace=True)
        path = self.path(table.name)
        rows = conform(df, table, f"stage {lineage.get('stage')}")
        before = self.version(table.name)
        with self._commit(table, lineage, before, drawn_at) as committed:
            # To replace nothing takes Delta twice the time.
            mode = "append" if before == 0 else "overwrite"
            rows.write.format("delta").mode(mode).save(path)
            return committed()

    def merge(
        self,
        table: Table,
        df: DataFrame,
        lineage: Mapping[str, Any],
        *,
        update_when: str | None = None,
        delete_missing_where: str | None = None,
        leave: DataFrame | None = None,
        within: str | None = None,
        drawn_at: int | None = None,
    ) -> TableRef:
        """MERGE on the table's key (source is ``s``, target is ``t``); the version it committed.

        A MERGE that changes no row commits nothing; the version is then that of before. What goes
        into a table that nothing has been written to is appended.

        Args:
            table: the schema; ``df`` has at most one row per key.
            df: new rows.
            lineage: metadata of the commit.
            update_when: SQL on s and t; matched rows for which it holds are replaced. None: no row.
            delete_missing_where: SQL on t; rows absent from ``df`` for which it holds are deleted.
            leave: keys of rows to delete in the same commit, none of them in ``df``. Unlike
                ``delete_missing_where``, it does not read the rows that stay.
            within: SQL on t that holds for all rows that can match, so that Delta reads only the
                partitions and files that satisfy it.
            drawn_at: the version from which new numbers of ``df`` were drawn; -1: there was no
                table. Nothing is written if others have drawn numbers since.

        Raises:
            SchemaError: a row breaks a constraint, or the table is of a later version of qarm.
            ConflictError: another writer has committed meanwhile.
        """
        from delta.tables import DeltaTable
        from pyspark.sql import functions as F

        self.create(table)
        path = self.path(table.name)
        rows = conform(df, table, f"stage {lineage.get('stage')}")
        before = self.version(table.name)
        if before == 0:
            with self._commit(table, lineage, before, drawn_at) as committed:
                rows.write.format("delta").mode("append").save(path)
                return committed()
        if leave is not None:
            keys = leave.select(*table.key).withColumn("__leave", F.lit(True))
            rows = rows.withColumn("__leave", F.lit(False))
            rows = rows.unionByName(keys, allowMissingColumns=True)
        source = rows.alias("s")
        on = " AND ".join(
            [*(f"t.`{k}` = s.`{k}`" for k in table.key), *([within] if within else [])]
        )
        builder = DeltaTable.forPath(self.spark, path).alias("t").merge(source, on)
        if leave is not None:
            builder = builder.whenMatchedDelete("s.__leave")
        if update_when is not None:
            builder = builder.whenMatchedUpdateAll(update_when)
        builder = builder.whenNotMatchedInsertAll(None if leave is None else "NOT s.__leave")
        if delete_missing_where is not None:
            builder = builder.whenNotMatchedBySourceDelete(delete_missing_where)
        with self._commit(table, lineage, before, drawn_at) as committed:
            builder.execute()
            return committed()

    def read(self, ref: TableRef) -> DataFrame:
        """The table at the pinned version; null in columns that an earlier release lacked."""
        from pyspark.sql import functions as F

        reader = self.spark.read.format("delta").option("versionAsOf", ref.version)
        rows = reader.load(ref.path)
        table = TABLES.get(ref.name)
        if table is None:
            return rows
        have = set(rows.columns)
        absent = [c for c in table.columns if c.nullable and c.name not in have]
        nulls = {c.name: F.lit(None).cast(c.type) for c in absent}
        return rows.withColumns(nulls) if nulls else rows

    def live_files(self, ref: TableRef) -> list[str]:
        """URIs of the Parquet files of the pinned version, sorted; plain paths where it is local.

        Raises:
            InputError: that version has deletion vectors or column mapping, so that its files
                alone do not hold the table; the message says how to fix it.
        """
        return [uri for uri, _ in self.live_file_sizes(ref)]

    def live_file_sizes(self, ref: TableRef) -> list[tuple[str, int]]:
        """(URI, bytes) of the files of ``live_files``, sorted.

        Raises:
            InputError: as there.
        """
        from pyspark.sql import DataFrame
        from pyspark.sql import functions as F

        snapshot = snapshot_of(self.read(ref))
        files = DataFrame(snapshot.allFiles().toDF(), self.spark)
        hidden = F.col("deletionVector").isNotNull().alias("hidden")
        rows = files.select("path", "size", hidden).collect()  # one row per file
        _refuse_hidden_changes(snapshot, ref, sum(row["hidden"] for row in rows))
        sizes = {unquote(row["path"]): int(row["size"]) for row in rows}
        return sorted(
            (path if "://" in path or path.startswith(("/", "file:")) else f"{ref.path}/{path}", n)
            for path, n in sizes.items()
        )


def _version_of_commit(path: str, token: str, before: int, latest: int) -> int | None:
    """The version after ``before`` whose commit carries the token; None: there is none."""
    for version in range(latest, before, -1):
        if token in files.read_text(files.join(path, "_delta_log", f"{version:020d}.json")):
            return version
    return None


def _conflict(path: str, lineage: Mapping[str, Any]) -> ConflictError:
    return ConflictError(
        f"stage {lineage.get('stage')}: another run has written to {path} while this one was "
        "working on it. Nothing of this run was published; run it again when the other has ended"
    )


def _refuse_hidden_changes(snapshot: Any, ref: TableRef, vectors: int) -> None:
    """Raise InputError if rows or column names of a version differ from those in its files.

    Reads the snapshot, not the table's current properties: these may have changed since, and
    deletion vectors (``vectors`` files have one) stay valid after they have been disabled.
    """
    where = f"{ref.path} at version {ref.version}"
    properties = snapshot.metadata().configuration()  # Scala's map

    def value(key: str, otherwise: str) -> str:
        return str(properties.apply(key)) if properties.contains(key) else otherwise

    mapping = value("delta.columnMapping.mode", "none")
    if mapping != "none":
        raise InputError(
            f"{where}: delta.columnMapping.mode is {mapping!r}, so that its files have other "
            "column names than the table, and training reads the files. Rewrite it by ALTER TABLE "
            f"delta.`{ref.path}` SET TBLPROPERTIES ('delta.columnMapping.mode' = 'none'), or copy "
            "it to a new table"
        )
    if vectors or value("delta.enableDeletionVectors", "false") != "false":
        raise InputError(
            f"{where}: deletion vectors are on or left behind ({vectors} files have one), so that "
            "its files hold rows that the table does not, and training reads the files. Run ALTER "
            f"TABLE delta.`{ref.path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = "
            f"'false'), then REORG TABLE delta.`{ref.path}` APPLY (PURGE), and use the version "
            "after it"
        )
