"""The user's own tables in place of ours: checked, counted, and copied in before a stage starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from qarm.config import fingerprint
from qarm.errors import InputError, RowsLostError
from qarm.ingest.file_formats import readable_files
from qarm.ingest.heads import check_heads
from qarm.ingest.parts import check_every_event_has_a_part
from qarm.lake import files
from qarm.lake.tables import TableRef, check_vectors, conform
from qarm.pipeline import own_rows, own_tensors
from schemas import TABLES, Table
from schemas.columns import ITEM_ID, ITEM_IDX, VECTOR
from schemas.table import col

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from qarm.pipeline.context import Context
    from qarm.pipeline.stages import Stage

#: Increased when the rules of copying or checking change: older copies are not reused then.
_RULES = 3
#: Prefix of the copies' names.
PREFIX = "external_"

#: Indices of the items of a user who has no catalogue.
_OWN_ITEMS = Table(
    name=f"{PREFIX}items",
    comment="One row per item that the user's own vectors have ever named",
    columns=(
        col(ITEM_ID, "string", "The user's id, as text"),
        col(ITEM_IDX, "bigint", "Dense, 0-based, append-only, never reused"),
    ),
    key=(ITEM_ID,),
)


def adopt_inputs(context: Context, stage: Stage) -> None:
    """Adopt the user's own tables that ``stage`` reads, and check them against each other.

    Raises:
        InputError: an event has no part in the user's own event_splits. Such events would be
            missing from everything that is mined and evaluated. (Our own table is made from the
            events.) Other errors as ``adopt``.
    """
    names = {*stage.inputs, *stage.optional_inputs}
    adopt(context, names)
    if not (context.is_external("event_splits") and {"interactions", "event_splits"} <= names):
        return
    if context.find("interactions") is not None:
        uri = context.config.external.tables["event_splits"]
        check_every_event_has_a_part(
            context.table("interactions"), context.table("event_splits"), uri
        )


def adopt(context: Context, names: Iterable[str] | None = None) -> None:
    """Copy the user's own tables into the lake and pin the copies; reading them copies nothing.

    Each state of a source is copied once, under the schema of our table. Rows may name items and
    users by the source's own ids. Rows with unknown ids or indices are an error, since the result
    would look complete without them. Where there is no table of items (or users), indices are taken
    unchecked.

    Args:
        context: of the stage that reads them.
        names: tables to adopt, those of ``external.tables`` among them; None: all of these.

    Raises:
        InputError: unreadable, unknown ids or indices, duplicate keys, or vectors with NaN.
        RowsLostError: the copy has more or fewer rows than the source.
        SchemaError: columns are missing or have another type.
    """
    sources = context.config.external.tables
    wanted = set(sources) if names is None else set(sources) & set(names)
    wanted |= {t for name in wanted for t in own_rows.tables_named_by(TABLES[name])} & set(sources)
    # Items and users first: the rows of other tables are checked against them.
    for name in sorted(wanted, key=lambda name: (name not in ("items", "users"), name)):
        context.adopted[name] = _adopt(context, name, sources[name])


def _adopt(context: Context, name: str, uri: str) -> TableRef:
    lake, table = context.lake, TABLES[name]
    named = own_rows.tables_named_by(table)
    known = {each: context.table(each) for each in named if context.find(each) is not None}
    source = fingerprint(uri, files.describe(uri))
    # A copy that could not be checked is made again once there is a table to check it against.
    unchecked = "".join(f"-no-{each}" for each in named if each not in known)
    mark = f"{name}-{source}{unchecked}-{_RULES}.txt"
    mark = files.join(lake.root, "manifests", "external", mark)
    copy_name = f"{PREFIX}{name}"
    if files.exists(mark):
        return TableRef(name, lake.path(copy_name), int(files.read_text(mark)))
    df = read_any(context.spark, uri, name)
    rows = df.count()
    copy = _copy(context, df, table, known, source)
    written = lake.overwrite(
        replace(own_rows.with_labels(table, df.columns), name=copy_name),
        copy,
        {**context.lineage, "source": uri},
    )
    if (copied := lake.read(written).count()) != rows:
        raise RowsLostError(
            f"stage {context.stage}: expected all {rows} rows of {name} from {uri} in its copy, "
            f"seen {copied} in {written.path} version {written.version}. If the source was being "
            "written meanwhile, run again; if not, this is a bug: please report it"
        )
    context.say(f"copied {rows} rows of {name} from {uri}")
    files.write_text(mark, str(written.version))
    return TableRef(name, written.path, written.version)


def _copy(
    context: Context, df: DataFrame, table: Table, known: Mapping[str, DataFrame], source: str
) -> DataFrame:
    """The rows of ``df`` under our schema, checked."""
    uri = context.config.external.tables[table.name]
    schema = own_rows.with_labels(table, df.columns)
    df = own_rows.ids_as_text(df, schema, uri)
    # Vectors and codes can be used without a catalogue; their items are numbered here then.
    if table.name in ("item_embeddings", "semantic_ids") and "items" not in known:
        df = _numbered_here(context, df)
    else:
        df = own_rows.with_indices(df, schema, known, uri)
    df = conform(own_rows.with_defaults(df, table.name, uri, source), schema, uri)
    if VECTOR in df.columns:
        check_vectors(df, VECTOR, uri)  # as float32: a double may be too large for it
    own_rows.check_key(df, schema, uri)
    return df


def _numbered_here(context: Context, df: DataFrame) -> DataFrame:
    """``df`` with item_id and item_idx for a user without a catalogue.

    The indices are kept in a table of their own: dense, append-only, never reused.
    """
    from pyspark.sql import functions as F

    from qarm.ingest.indices import numbered
    from qarm.lake.caching import Keeper

    if ITEM_ID not in df.columns and ITEM_IDX in df.columns:
        return df.withColumn(ITEM_ID, F.col(ITEM_IDX).cast("string"))
    if ITEM_ID not in df.columns or ITEM_IDX in df.columns:
        return df
    lake = context.lake
    lake.create(_OWN_ITEMS)
    path = lake.path(_OWN_ITEMS.name)
    version = lake.version(_OWN_ITEMS.name)
    known = lake.read(TableRef(_OWN_ITEMS.name, path, version))
    new = df.select(ITEM_ID).distinct().join(known, ITEM_ID, "left_anti")
    row = known.agg(F.max(ITEM_IDX).alias("last")).first()
    start = 0 if row is None or row["last"] is None else int(row["last"]) + 1
    with Keeper() as keep:
        fresh, _ = numbered(new, [F.col(ITEM_ID)], ITEM_IDX, keep, start=start)
        if fresh.isEmpty():
            ref = TableRef(_OWN_ITEMS.name, path, version)
        else:
            ref = lake.merge(_OWN_ITEMS, fresh, context.lineage, drawn_at=version)
    return df.join(lake.read(ref), ITEM_ID, "left")


def read_any(spark: SparkSession, uri: str, name: str = "") -> DataFrame:
    """A Delta table, Parquet files, or a safetensors file with rows of table ``name``.

    Raises:
        InputError: nothing there, or none of these.
    """
    from delta.tables import DeltaTable
    from pyspark.errors import AnalysisException

    expected = "expected a Delta table, Parquet files or a safetensors file"
    if not files.exists(uri):
        raise InputError(f"no table at {uri}; {expected}")
    if uri.endswith(own_tensors.SUFFIX):
        return own_tensors.read_tensors(spark, uri, name)
    try:
        if DeltaTable.isDeltaTable(spark, uri):
            return spark.read.format("delta").load(uri)
        field = f"external.tables.{name}" if name else "external.tables"
        odd = next((n for n in files.visible_files(uri) if not _may_be_parquet(n)), None)
        if odd is not None:
            raise InputError(f"{field}: {odd} is none of the formats that are read; {expected}")
        check_heads(spark, readable_files(uri, field), "parquet", field, {})
        return spark.read.parquet(files.hadoop_path(uri))
    except AnalysisException as error:
        raise InputError(
            f"{uri} cannot be read: {str(error).splitlines()[0]}; {expected}"
        ) from error


def _may_be_parquet(name: str) -> bool:
    """Whether the ending is Parquet's, or none that is known."""
    return name.rpartition("/")[2].rpartition(".")[2].lower() not in (
        *("csv", "tsv", "json", "jsonl", "ndjson", "txt", "npy", "npz", "pt", "pkl", "zip", "gz"),
    )
