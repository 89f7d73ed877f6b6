"""The catalogue: read from files of its own, or made from the lines of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qarm.config.items import ItemSource
from qarm.errors import InputError
from qarm.ingest import content, images
from qarm.ingest.ids import bad_id, id_text
from qarm.ingest.log import JSON_OPTIONS
from qarm.ingest.sources import (
    FILE,
    MALFORMED,
    column,
    open_files,
    require_columns,
    visible,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

#: Reasons that reject a catalogue line, and reasons that remove one modality of an item only.
LINE_REASONS = ("malformed_row", "bad_id", "null_item", "duplicate_item")
MODALITY_REASONS = ("undecodable_image", "bad_audio")
#: Parts whose lines may describe an item: later prices and names are unknown in training.
_KNOWN_PARTS = ("mine", "train")


def open_catalog(spark: SparkSession, items: ItemSource) -> DataFrame:
    """The raw catalogue, with ``FILE``.

    Raises:
        InputError: a file or a column is missing.
    """
    raw = open_files(
        spark,
        items.path,
        field="items.path",
        file_format=items.format,
        csv_options=items.csv_options,
    )
    where = f"items.path ({', '.join(items.path)})"
    require_columns(raw, {"items.id": items.id, **content.source_columns(items)}, where)
    return raw


def read_catalog(raw: DataFrame, items: ItemSource, null_words: Sequence[str] = ()) -> DataFrame:
    """One row per catalogue line: item_id, the content columns, content_hash, and its problems.

    Problems are ``reason`` (one of LINE_REASONS; null: the line is an item), ``bad_id`` (the id, as
    ``ids.bad_id`` has it), ``image_problem`` and ``bad_audio``; lines with a problem have ``raw``
    as JSON. Of several lines with one id, the one with the most columns filled is kept; among
    equals, the one with the smallest fingerprint.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    own = visible(raw)
    kinds = {f.name: f.dataType.simpleString() for f in raw.schema}
    kind = kinds[items.id]
    described = content.described(items, kinds, lambda name: F.col("raw").getField(name))
    binary = [name for name in own if kinds[name] == "binary"]
    parts = [F.to_json(F.struct(*[column(n) for n in own if n not in binary]), JSON_OPTIONS)]
    parts += [F.coalesce(F.sha2(column(name), 256), F.lit("")) for name in binary]
    copies = Window.partitionBy(F.coalesce("item_id", "fingerprint")).orderBy(
        F.desc("filled"), "fingerprint", "file"
    )
    malformed = F.col("raw").getField(MALFORMED).isNotNull() if MALFORMED in own else F.lit(False)
    reason = (
        F.when(malformed, "malformed_row")
        .when(F.col("bad_id").isNotNull(), "bad_id")
        .when(F.col("item_id").isNull(), "null_item")
        .when(F.row_number().over(copies) > 1, "duplicate_item")
        .otherwise(F.lit(None))
    )
    lines = (
        raw.select(
            F.struct(*[column(name) for name in own]).alias("raw"),
            F.col(FILE).alias("file"),
            id_text(column(items.id), kind, null_words).alias("item_id"),
            bad_id(column(items.id), kind).alias("bad_id"),
            F.sha2(F.concat_ws("|", *parts), 256).alias("fingerprint"),
            F.size(
                F.array_compact(F.array(*[F.when(column(n).isNotNull(), 1) for n in own]))
            ).alias("filled"),
        )
        .withColumn("reason", reason)
        .withColumns(described)
    )
    given = F.col("raw").getField(items.audio).isNotNull() if items.audio else F.lit(False)
    unreadable = given & F.col("audio").isNull()
    lines = _without_bad_media(lines, items, kinds, unreadable)
    reported = F.col("reason").isNotNull() | F.col("image_problem").isNotNull() | F.col("bad_audio")
    return lines.select(
        "item_id",
        *content.CONTENT,
        content.content_hash(F.col).alias("content_hash"),
        F.lit(kinds[items.id]).alias("source_type"),
        "reason",
        "bad_id",
        "image_problem",
        "bad_audio",
        F.when(reported, F.to_json("raw", JSON_OPTIONS)).alias("raw"),
        F.col("file").alias("source"),
    )


def _without_bad_media(
    lines: DataFrame, items: ItemSource, kinds: Mapping[str, str], unreadable: Column
) -> DataFrame:
    """``lines`` with image_problem and bad_audio; an image or vector with a problem becomes null.

    Args:
        lines: with the columns of ``content.described``, and file.
        items: the configuration.
        kinds: column of the source -> Spark SQL type.
        unreadable: whether the source has an audio vector that could not be read as numbers.
    """
    from pyspark.sql import functions as F

    bad_audio = unreadable | content.not_finite(F.col("audio"))
    lines = lines.withColumn("bad_audio", F.coalesce(bad_audio, F.lit(False)))
    lines = lines.withColumn("audio", F.when(~F.col("bad_audio"), F.col("audio")))
    if items.image is None:
        return lines.withColumn("image_problem", F.lit(None).cast("string"))
    by_uri = kinds[items.image] == "string"
    lines = images.checked(lines, by_uri=by_uri, prefixes=items.image_prefixes)
    return lines.withColumn("image", F.when(F.col("image_problem").isNull(), F.col("image")))


def ids(
    raw: DataFrame, items: ItemSource, known: DataFrame, null_words: Sequence[str] = ()
) -> DataFrame:
    """Distinct item_id that log rows may name: those of the files and those of table items.

    Items that have left the catalogue keep their events.
    """
    kind = raw.schema[items.id].dataType.simpleString()
    named = raw.select(id_text(column(items.id), kind, null_words).alias("item_id"))
    both = named.unionByName(known.select("item_id"))
    return both.where("item_id IS NOT NULL").distinct()


def summary(present: DataFrame) -> tuple[dict[str, int], str | None]:
    """Counts of all items, items without text, with an image, with an audio vector and with U+FFFD
    in their text (bytes that are not UTF-8); and one of the latter texts.

    Raises:
        InputError: audio vectors differ in length.
    """
    from pyspark.sql import functions as F

    text = F.concat_ws(" ", "title", "text")
    broken = text.contains("\ufffd")
    row = present.agg(
        F.count("*").alias("items"),
        F.count_if(broken).alias("with_broken_text"),
        F.min(F.when(broken, F.substring(text, 1, 80))).alias("example"),
        F.count_if(F.col("title").isNull() & F.col("text").isNull()).alias("without_text"),
        F.count_if(F.col("image").isNotNull()).alias("with_image"),
        F.count_if(F.col("audio").isNotNull()).alias("with_audio"),
        F.min(F.size("audio")).alias("shortest"),
        F.max(F.size("audio")).alias("longest"),
    ).first()
    assert row is not None
    if row["shortest"] != row["longest"]:
        raise InputError(
            f"items.audio: vectors must have one length, seen {row['shortest']} to "
            f"{row['longest']}; correct the source or remove the setting items.audio"
        )
    counted = ("items", "without_text", "with_image", "with_audio", "with_broken_text")
    return {name: int(row[name]) for name in counted}, row["example"]


def content_of_lines(raw: DataFrame, items: ItemSource) -> list[Column]:
    """The log's columns that describe the item, as fields c0, c1, ... of struct ``raw``.

    Raises:
        InputError: the log has no such column.
    """
    from pyspark.sql import functions as F

    require_columns(raw, content.source_columns(items), "items.from_log: the log")
    names = list(dict.fromkeys(content.source_columns(items).values()))
    return [F.col("raw").getField(name).alias(f"c{i}") for i, name in enumerate(names)]


def from_lines(events: DataFrame, raw: DataFrame, items: ItemSource, source_type: str) -> DataFrame:
    """The catalogue made from the log, with the columns of ``read_catalog``.

    Each column has the item's most frequent non-null value among lines of the training period, or
    among all lines if there is none; of equally frequent values, the smallest.

    Args:
        events: with item_id, part, and ``contents`` (one struct of ``content_of_lines`` per line).
        raw: the log, for the types of its columns.
        items: the configuration.
        source_type: type of the item's id in the log.
    """
    from pyspark.sql import functions as F

    kinds = {f.name: f.dataType.simpleString() for f in raw.schema}
    names = list(dict.fromkeys(content.source_columns(items).values()))
    lines = events.select(
        "item_id",
        F.col("part").isin(*_KNOWN_PARTS).alias("known"),
        F.explode_outer("contents").alias("line") if names else F.lit(None).alias("line"),
    )

    def most_frequent(i: int, name: str) -> Column:
        value = F.col(f"line.c{i}")
        if kinds[name] == "string":
            value = F.when(F.length(F.trim(value)) > 0, F.trim(value))
        known = F.mode(F.when(F.col("known"), value), deterministic=True)
        return F.coalesce(known, F.mode(value, deterministic=True)).alias(f"c{i}")

    modes = lines.groupBy("item_id").agg(
        F.count("*").alias("lines"), *[most_frequent(i, name) for i, name in enumerate(names)]
    )
    described = content.described(items, kinds, lambda name: F.col(f"c{names.index(name)}"))
    catalog = modes.select("item_id", *[value.alias(name) for name, value in described.items()])
    if items.image is not None:  # relative paths are resolved against the log's folder
        catalog = catalog.withColumn("file", F.lit(raw.inputFiles()[0]))
    return _without_bad_media(catalog, items, kinds, F.lit(False)).select(
        "item_id",
        *content.CONTENT,
        content.content_hash(F.col).alias("content_hash"),
        F.lit(source_type).alias("source_type"),
        F.lit(None).cast("string").alias("reason"),
        F.lit(None).cast("string").alias("bad_id"),
        "image_problem",
        "bad_audio",
        F.to_json(F.struct("item_id", "title", "image_uri")).alias("raw"),
        F.lit("log").alias("source"),
    )


def rejected(lines: DataFrame, run_id: str) -> DataFrame:
    """Problems of catalogue lines, as rows of table quarantine; a line may have two."""
    from pyspark.sql import functions as F

    def problem(applies: Column, reason: Column, detail: Column) -> Column:
        return F.when(applies, F.struct(reason.alias("reason"), detail.alias("detail")))

    null = F.lit(None).cast("string")
    usable = F.col("reason").isNull()
    problems = F.array(
        problem(~usable, F.col("reason"), F.coalesce("bad_id", "item_id")),
        problem(
            usable & F.col("image_problem").isNotNull(),
            F.lit("undecodable_image"),
            F.col("image_problem"),
        ),
        problem(usable & F.col("bad_audio"), F.lit("bad_audio"), null),
    )
    return lines.withColumn(
        "problem", F.explode(F.filter(problems, lambda p: p.isNotNull()))
    ).select(
        F.lit("items").alias("table"),
        F.col("problem.reason").alias("reason"),
        F.col("problem.detail").alias("detail"),
        "raw",
        "source",
        F.lit(run_id).alias("run_id"),
    )
