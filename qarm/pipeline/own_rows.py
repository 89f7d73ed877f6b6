"""Rows of the user's own tables: indices looked up or checked, missing columns filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qarm.config import fingerprint
from qarm.errors import InputError, MissingStageError, SchemaError
from qarm.ingest.ids import bad_id, id_text
from schemas import Table, ranking_samples
from schemas.columns import (
    CODEBOOK_ID,
    CONTENT_HASH,
    ENCODER_VERSION,
    ITEM_ID,
    ITEM_IDX,
    SCORE,
    SOURCE,
    SPLIT_ID,
    TARGET,
    TRIGGER,
    USER_ID,
    USER_IDX,
    VECTOR,
    WEIGHT,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Our index column -> the source-id column that a user may give instead, and what it numbers.
_ID_COLUMNS = {
    ITEM_IDX: (ITEM_ID, "item"),
    TRIGGER: ("trigger_item_id", "item"),
    TARGET: ("target_item_id", "item"),
    USER_IDX: (USER_ID, "user"),
}
_LABEL = "label_"


def tables_named_by(table: Table) -> list[str]:
    """Tables (items, users) whose indices the table's rows hold, except the table itself."""
    named = {f"{kind}s" for index, (_, kind) in _ID_COLUMNS.items() if index in table.column_names}
    return sorted(named - {table.name})


def with_labels(table: Table, columns: Sequence[str]) -> Table:
    """The schema of ranking_samples with the labels of the user's rows; other tables unchanged."""
    labels = [name.removeprefix(_LABEL) for name in columns if name.startswith(_LABEL)]
    if table.name != ranking_samples.TABLE.name or not labels:
        return table
    return ranking_samples.table(labels)


def ids_as_text(df: DataFrame, table: Table, uri: str) -> DataFrame:
    """``df`` with the source's ids, where it has them, as text, as ingest writes them.

    Args:
        df: the user's rows.
        table: their schema.
        uri: for messages.

    Raises:
        SchemaError: a column of ids is neither text nor numbers.
        InputError: an id is missing, or is no whole number; gives count and example. (A codebook's
            centroids have none.)
    """
    from pyspark.sql import functions as F

    names = [name for name, _ in _ID_COLUMNS.values() if name in df.columns]
    columns, faults = {}, []
    for name in names:
        kind = df.schema[name].dataType.simpleString()
        if kind.split("<")[0] in ("array", "map", "struct", "binary"):
            raise SchemaError(
                f"{uri}: column {name} should be text or whole numbers, is {kind}; cast it first"
            )
        columns[name], bad = id_text(df[name], kind), bad_id(df[name], kind)
        missing = columns[name].isNull() & bad.isNull()
        faults += [
            F.count_if(missing).alias(f"{name} missing"),
            F.count_if(bad.isNotNull()).alias(f"{name} bad"),
            F.min(bad).alias(f"{name} example"),
        ]
    if not names:
        return df
    seen = df.agg(*faults).first()
    assert seen is not None
    for name in names:
        if seen[f"{name} bad"]:
            raise InputError(
                f"{uri}: {seen[f'{name} bad']} rows have no text and no whole number as {name}, "
                f"such as {seen[f'{name} example']!r}; write ids as text"
            )
        if seen[f"{name} missing"] and table.name != "codebooks":
            raise InputError(
                f"{uri}: {seen[f'{name} missing']} rows have no {name} (null or blank); remove "
                "them, or give them ids"
            )
    return df.withColumns(columns)


def check_key(df: DataFrame, table: Table, uri: str) -> None:
    """Raise InputError where two rows have the same key."""
    if not table.key:
        return
    duplicates = df.groupBy(*table.key).count().where("count > 1").limit(3).collect()
    if duplicates:
        examples = [tuple(row[k] for k in table.key) for row in duplicates]
        raise InputError(
            f"{uri}: expected one row per ({', '.join(table.key)}), seen several for {examples}; "
            "keep one of each"
        )


def with_indices(
    df: DataFrame, table: Table, known: Mapping[str, DataFrame], uri: str
) -> DataFrame:
    """``df`` with our indices: looked up by the source's ids, or checked where ``df`` has them.

    Args:
        df: the user's rows.
        table: their schema.
        known: items and users, those that exist. Indices of the others are taken unchecked.
        uri: for messages.

    Raises:
        InputError: unknown ids or indices.
        MissingStageError: ids of items (or users) that there is no table of.
    """
    from pyspark.sql import functions as F

    for index, (source_id, kind) in _ID_COLUMNS.items():
        names = known.get(f"{kind}s")
        if index not in table.column_names or table.name == f"{kind}s":
            continue
        if index in df.columns:
            if names is not None:
                _check_indices(df, index, names, uri)
            continue
        if source_id not in df.columns:
            continue
        if names is None:
            raise MissingStageError(
                f"{uri}: {source_id} cannot be looked up, since the lake has no table {kind}s; "
                f"run stage ingest first, or give {index} in place of {source_id}"
            )
        pairs = names.select(F.col(f"{kind}_id").alias("__id"), F.col(f"{kind}_idx").alias(index))
        joined = df.join(pairs, F.col(source_id).cast("string") == F.col("__id"), "left")
        unknown = joined.where(F.col(index).isNull()).select(source_id).distinct()
        if examples := [row[0] for row in unknown.limit(3).collect()]:
            raise InputError(
                f"{uri}: {unknown.count()} values of {source_id} are not in {kind}s, such as "
                f"{examples}; ids are compared as text. Add them to the catalogue or remove the "
                "rows"
            )
        df = joined.drop("__id")
    wants_id = ITEM_ID in table.column_names and ITEM_ID not in df.columns
    if wants_id and ITEM_IDX in df.columns and "items" in known:
        df = df.join(known["items"].select(ITEM_IDX, ITEM_ID), ITEM_IDX, "left")
    return df


def _check_indices(df: DataFrame, index: str, names: DataFrame, uri: str) -> None:
    """Raise InputError where ``index`` is unknown, or belongs to another id than the row's.

    Indices are valid in one lake: those of another lake would name other items without an error.
    """
    from pyspark.sql import functions as F

    if df.schema[index].dataType.simpleString() not in ("tinyint", "smallint", "int", "bigint"):
        return  # not a type of an index; conform reports it
    source_id, kind = _ID_COLUMNS[index]
    known = names.select(F.col(f"{kind}_idx").alias("__idx"), F.col(f"{kind}_id").alias("__id"))
    same, shown = F.col(index) == F.col("__idx"), [index]
    if source_id in df.columns:
        same, shown = same & (F.col(source_id).cast("string") == F.col("__id")), [index, source_id]
    # Null is a value of codebooks (a centroid); other tables refuse it by their own rule.
    given = df.where(F.col(index).isNotNull()).select(*shown).distinct()
    unknown = given.join(known, same, "left_anti")
    if rows := unknown.limit(3).collect():
        examples = [tuple(row) if len(shown) > 1 else row[0] for row in rows]
        raise InputError(
            f"{uri}: {unknown.count()} values of {' with '.join(shown)} are not in {kind}s, such "
            f"as {examples}; {index} is the number that this lake assigned ({kind}s.{kind}_idx). "
            f"Give {source_id} in place of {index}, or remove the rows"
        )


def with_defaults(df: DataFrame, name: str, uri: str, source: str) -> DataFrame:
    """``df`` with the columns of table ``name`` that a user's table need not have.

    The default encoder version depends on the place of the vectors, not on their content: when rows
    are added there, a frozen codebook still codes them. Give encoder_version to have it checked.

    Args:
        df: the user's rows.
        name: of our table.
        uri: where the rows come from.
        source: hash of the source's files.
    """
    from pyspark.sql import functions as F

    user = F.lit(f"user-{source}")
    vector_hash = F.lit("")
    if VECTOR in df.columns:
        vector_hash = F.sha2(F.col(VECTOR).cast("string"), 256)
    defaults = {
        "item_embeddings": {
            ENCODER_VERSION: F.lit(f"user-{fingerprint(uri)}"),
            CONTENT_HASH: vector_hash,
            "modalities": F.array(F.lit("user")),
        },
        "id_vectors": {"model": user},
        "item_pairs": {
            SOURCE: F.lit("user"),
            SPLIT_ID: F.lit("user"),
            "window_end": F.lit("1970-01-01").cast("timestamp"),
            "miner_version": user,
            SCORE: F.lit(1.0),
            "support": F.lit(1).cast("bigint"),
            WEIGHT: F.lit(1.0),
        },
        "semantic_ids": {
            CODEBOOK_ID: user,
            ENCODER_VERSION: user,
            CONTENT_HASH: F.lit(""),
            "assigned_at": F.lit("1970-01-01").cast("timestamp"),
            "residual_error": F.lit(0.0).cast("float"),
            "vq": F.array().cast("array<int>"),
            "rq": F.array().cast("array<int>"),
        },
        "codebooks": {
            CODEBOOK_ID: user,
            ENCODER_VERSION: F.lit(""),  # unknown
            "fit": F.lit("{}"),
        },
    }
    for column, value in defaults.get(name, {}).items():
        if column not in df.columns:
            df = df.withColumn(column, value)
    return df
