"""The user's own table in place of ours: checked, counted, and copied in as a pinned version."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qarm.config import fingerprint
from qarm.errors import ConfigError, InputError, RowsLostError
from qarm.lake import files
from qarm.lake.tables import TableRef, check_vectors, conform
from qarm.pipeline import own_tensors
from schemas import TABLES, Table, ranking_samples
from schemas.table import col

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from qarm.pipeline.context import Context

#: Our index column -> the source-id column that a user may give instead, and what it numbers.
_ID_COLUMNS = {
    "item_idx": ("item_id", "item"),
    "trigger": ("trigger_item_id", "item"),
    "target": ("target_item_id", "item"),
    "user_idx": ("user_id", "user"),
}

#: Rises when other rows or columns are copied or checked: older copies are not taken again then.
_RULES = 2

_LABEL = "label_"

#: Numbers of the items of somebody without a catalogue.
_OWN_ITEMS = Table(
    name="external_items",
    comment="One row an item that the user's own vectors have ever named",
    columns=(
        col("item_id", "string", "The user's id, as text"),
        col("item_idx", "bigint", "Dense, 0-based, append-only, never reused"),
    ),
    key=("item_id",),
)


def read_any(spark: SparkSession, uri: str, name: str = "") -> DataFrame:
    """A Delta table, or Parquet files; of table ``name``, where it can be, a safetensors file.

    Raises:
        InputError: nothing there, or none of these.
    """
    from delta.tables import DeltaTable
    from pyspark.errors import AnalysisException

    if not files.exists(uri):
        raise InputError(f"no table at {uri}; expected a Delta table or Parquet files")
    if uri.endswith(own_tensors.SUFFIX):
        return own_tensors.read_tensors(spark, uri, name)
    try:
        if DeltaTable.isDeltaTable(spark, uri):
            return spark.read.format("delta").load(uri)
        return spark.read.parquet(uri)
    except AnalysisException as error:
        raise InputError(f"{uri} is neither a Delta table nor Parquet files: {error}") from error


def adopt(context: Context, name: str, uri: str) -> TableRef:
    """Copy the user's table into the lake under its schema, once a state of the source.

    Rows may name items and users by the source's own ids; rows of unknown ids or indices are an
    error, since leaving them out in silence would make the result look complete. Indices are taken
    as they are where there are no items (or users) to look them up in.

    Raises:
        ConfigError: no such table.
        InputError: unreadable, unknown ids or indices, or vectors with NaN.
        RowsLostError: the copy has more or fewer rows than were read.
        SchemaError: columns missing or of another type.
    """
    if name not in TABLES:
        raise ConfigError(f"external.tables names {name!r}; tables: {', '.join(TABLES)}")
    lake = context.lake
    source = fingerprint(uri, files.describe(uri))
    table = TABLES[name]
    absent = [kind for kind in _kinds(table) if context.find(f"{kind}s") is None]
    # Vectors and codes alone are of use without a catalogue; their items are numbered here then.
    own = name in ("item_embeddings", "semantic_ids") and "item" in absent
    # A copy that could not be checked is made again once there is something to check it against.
    unchecked = "".join(f"-no-{kind}s" for kind in absent)
    mark = f"{name}-{source}{unchecked}-{_RULES}.txt"
    mark = files.join(lake.root, "manifests", "external", mark)
    path_name = f"external_{name}"
    if files.exists(mark):
        return TableRef(name, lake.path(path_name), int(files.read_text(mark)))
    df = read_any(context.spark, uri, name)
    rows = df.count()
    table = _with_labels(table, df.columns)
    for column in table.columns:
        if column.name in ("item_id", "user_id") and column.name in df.columns:
            df = df.withColumn(column.name, df[column.name].cast("string"))
    df = _numbered_here(context, df) if own else _with_indices(context, df, table, absent, uri)
    if "vector" in df.columns:
        check_vectors(df, "vector", uri)
    df = conform(_with_defaults(df, name, uri, source), table, uri)
    _check_key(df, table, uri)
    copy = replace(table, name=path_name)
    written = lake.overwrite(copy, df, {**context.lineage, "source": uri})
    if (kept := lake.read(written).count()) != rows:
        raise RowsLostError(
            f"stage {context.stage}: expected all {rows} rows of {name} from {uri} in its copy, "
            f"seen {kept} in {written.path} version {written.version}. If the source was being "
            "written meanwhile, run again; if not, this is a fault of ours: please report it"
        )
    context.say(f"took {rows} rows of {name} from {uri}")
    files.write_text(mark, str(written.version))
    return TableRef(name, written.path, written.version)


def _kinds(table: Table) -> list[str]:
    """What the table's rows name by number: item, user; without what it numbers itself."""
    named = {kind for index, (_, kind) in _ID_COLUMNS.items() if index in table.column_names}
    return sorted(kind for kind in named if table.name != f"{kind}s")


def _with_labels(table: Table, columns: Sequence[str]) -> Table:
    """The schema of ranking_samples for the labels that the user's own have; others as they are."""
    labels = [name.removeprefix(_LABEL) for name in columns if name.startswith(_LABEL)]
    if table.name != ranking_samples.TABLE.name or not labels:
        return table
    return ranking_samples.table(labels)


def _check_key(df: DataFrame, table: Table, uri: str) -> None:
    """Raise InputError where two rows have one key."""
    if not table.key:
        return
    twice = df.groupBy(*table.key).count().where("count > 1").limit(3).collect()
    if twice:
        examples = [tuple(row[k] for k in table.key) for row in twice]
        raise InputError(
            f"{uri}: expected one row for each ({', '.join(table.key)}), seen several for "
            f"{examples}; leave one of each"
        )


def _numbered_here(context: Context, df: DataFrame) -> DataFrame:
    """``df`` with item_id and item_idx for somebody who has no catalogue.

    Numbers are kept in a table of their own: dense, append-only, never used again.
    """
    from pyspark.sql import functions as F

    from qarm.ingest.indices import numbered
    from qarm.lake.caching import Keeper

    if "item_id" not in df.columns and "item_idx" in df.columns:
        return df.withColumn("item_id", F.col("item_idx").cast("string"))
    if "item_id" not in df.columns or "item_idx" in df.columns:
        return df
    lake = context.lake
    lake.create(_OWN_ITEMS)
    path = lake.path(_OWN_ITEMS.name)
    known = lake.read(TableRef(_OWN_ITEMS.name, path, lake.version(_OWN_ITEMS.name)))
    new = df.select("item_id").distinct().join(known, "item_id", "left_anti")
    row = known.agg(F.max("item_idx").alias("last")).first()
    start = 0 if row is None or row["last"] is None else int(row["last"]) + 1
    with Keeper() as keep:
        fresh, _ = numbered(new, [F.col("item_id")], "item_idx", keep, start=start)
        ref = lake.merge(_OWN_ITEMS, fresh, context.lineage)
    return df.join(lake.read(ref), "item_id", "left")


def _with_indices(
    context: Context, df: DataFrame, table: Table, absent: Collection[str], uri: str
) -> DataFrame:
    """``df`` with our indices looked up by the source's ids, or checked where it has them itself.

    Args:
        context: finds items and users.
        df: the user's rows.
        table: its schema.
        absent: kinds (item, user) that there is no table of: indices are not checked then.
        uri: for messages.
    """
    from pyspark.sql import functions as F

    for index, (source_id, kind) in _ID_COLUMNS.items():
        if index not in table.column_names or table.name == f"{kind}s":
            continue
        if index in df.columns:
            if kind not in absent:
                _check_indices(context, df, index, uri)
            continue
        if source_id not in df.columns:
            continue
        known = context.table(f"{kind}s").select(
            F.col(f"{kind}_id").alias("__id"), F.col(f"{kind}_idx").alias(index)
        )
        joined = df.join(known, F.col(source_id).cast("string") == F.col("__id"), "left")
        unknown = joined.where(F.col(index).isNull()).select(source_id).distinct()
        if examples := [row[0] for row in unknown.limit(3).collect()]:
            raise InputError(
                f"{uri}: {unknown.count()} values of {source_id} are not in {kind}s, such as "
                f"{examples}; ids are compared as text. Add them to the catalogue or leave the "
                "rows out"
            )
        df = joined.drop("__id")
    if "item_id" not in df.columns and "item_id" in table.column_names and "item_idx" in df.columns:
        df = df.join(context.table("items").select("item_idx", "item_id"), "item_idx", "left")
    return df


def _check_indices(context: Context, df: DataFrame, index: str, uri: str) -> None:
    """Raise InputError where ``index`` names nothing, or not what the id beside it names.

    Numbers are of one lake: those of another one would name other items without any error.
    """
    from pyspark.sql import functions as F

    if df.schema[index].dataType.simpleString() not in ("tinyint", "smallint", "int", "bigint"):
        return  # of no type that an index can have; conform says so
    source_id, kind = _ID_COLUMNS[index]
    known = context.table(f"{kind}s").select(
        F.col(f"{kind}_idx").alias("__idx"), F.col(f"{kind}_id").alias("__id")
    )
    same, shown = F.col(index) == F.col("__idx"), [index]
    if source_id in df.columns:
        same, shown = same & (F.col(source_id).cast("string") == F.col("__id")), [index, source_id]
    # Null is a value of codebooks (a centroid); where a table does not allow it, its rule says so.
    given = df.where(F.col(index).isNotNull()).select(*shown).distinct()
    unknown = given.join(known, same, "left_anti")
    if rows := unknown.limit(3).collect():
        examples = [tuple(row) if len(shown) > 1 else row[0] for row in rows]
        raise InputError(
            f"{uri}: {unknown.count()} values of {' with '.join(shown)} are not in {kind}s, such "
            f"as {examples}; {index} is the number that this lake gave ({kind}s.{kind}_idx). Give "
            f"{source_id} in place of {index}, or leave the rows out"
        )


def _with_defaults(df: DataFrame, name: str, uri: str, source: str) -> DataFrame:
    """Columns that a user's table need not have.

    Vectors that come from one place are taken to be of one encoder, also when rows are added: a
    frozen codebook goes on to code them. Name the encoder (encoder_version) to have it checked.
    """
    from pyspark.sql import functions as F

    defaults = {
        "item_embeddings": {
            "encoder_version": F.lit(f"user-{fingerprint(uri)}"),
            "content_hash": F.sha2(F.col("vector").cast("string"), 256)
            if "vector" in df.columns
            else F.lit(""),
            "modalities": F.array(F.lit("user")),
        },
        "id_vectors": {"model": F.lit(f"user-{source}")},
        "item_pairs": {
            "source": F.lit("user"),
            "split_id": F.lit("user"),
            "window_end": F.lit("1970-01-01").cast("timestamp"),
            "miner_version": F.lit(f"user-{source}"),
            "score": F.lit(1.0),
            "support": F.lit(1).cast("bigint"),
            "weight": F.lit(1.0),
        },
        "semantic_ids": {
            "codebook_id": F.lit(f"user-{source}"),
            "encoder_version": F.lit(f"user-{source}"),
            "content_hash": F.lit(""),
            "assigned_at": F.lit("1970-01-01").cast("timestamp"),
            "residual_error": F.lit(0.0).cast("float"),
            "vq": F.array().cast("array<int>"),
            "rq": F.array().cast("array<int>"),
        },
        "codebooks": {
            "codebook_id": F.lit(f"user-{source}"),
            "encoder_version": F.lit(""),  # not known
            "fit": F.lit("{}"),
        },
    }
    for column, value in defaults.get(name, {}).items():
        if column not in df.columns:
            df = df.withColumn(column, value)
    return df


def check_own_splits(context: Context) -> None:
    """Every event must have a part in a table of the user's own; ours is made from the events.

    Raises:
        InputError: some have none. They would be missing from all that is mined and judged.
    """
    from qarm.ingest.parts import check_every_event_has_a_part

    if context.is_external("event_splits"):
        check_every_event_has_a_part(
            context.table("interactions"),
            context.table("event_splits"),
            context.config.external.tables["event_splits"],
        )
