"""Raw log rows -> canonical rows, each with the first reason, if any, that rejects it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from qarm.config.log import LogSource
from qarm.config.split import Split
from qarm.errors import ConfigError, InputError
from qarm.ingest import expressions, splits, times
from qarm.ingest.ids import bad_id, id_text
from qarm.ingest.sources import (
    FILE,
    MALFORMED,
    append,
    column,
    open_files,
    require_columns,
    visible,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

#: Reasons in the order in which they are checked; a row gets the first that applies.
REASONS = (
    "malformed_row",
    "bad_id",
    "null_user",
    "null_item",
    "null_event",
    "unparsable_time",
    "future_time",
    "return",
    "not_selected",
    "unknown_item",
    "bad_value",
    "exact_duplicate",
)
#: Reasons by which the configuration excludes rows on purpose: log.returns and log.rows.
DELIBERATE = ("return", "not_selected")
#: Smallest and largest weight. Mining adds weights as decimals with 12 places: smaller ones would
#: lose their digits, and sums of larger ones could overflow.
WEIGHTS = (1e-9, 1e12)
#: Column with the raw row, where expressions see NaN as null.
_RAW = "__raw"
#: Longest detail of a malformed row, since an open quote may swallow a file; ``raw`` is complete.
_DETAIL_CHARACTERS = 200
#: Column with the part that split.files assigns to all rows of a file.
FILE_PART = "__part"
#: By default to_json truncates timestamps to milliseconds.
JSON_OPTIONS = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}


def open_log(spark: SparkSession, source: LogSource, split: Split) -> DataFrame:
    """The raw log, with ``FILE``, and with ``FILE_PART`` where split.files names the parts.

    Raises:
        InputError: a file or a column is missing, or the files differ in columns or types.
        ConfigError: both log.path and split.files name files.
    """
    from pyspark.sql import functions as F

    wanted = {"log.user": source.user, "log.item": source.item}
    if source.time is None:
        raise ConfigError("log.time must name the column of the time, or of the position")
    wanted["log.time"] = source.time
    for field in ("event", "value", "split"):
        if (name := getattr(source, field)) is not None:
            wanted[f"log.{field}"] = name
    text = [source.user, source.item]
    text += [name for name in (source.event, source.split) if name is not None]
    if source.time_format == "iso":
        text.append(source.time)
    groups: list[tuple[str | None, Sequence[str]]] = [(None, source.path)]
    if split.kind == "files":
        if source.path:
            raise ConfigError('split.kind = "files" names the log itself; leave log.path empty')
        groups = list(split.files.items())
    union: DataFrame | None = None
    for part, uris in groups:
        field = "log.path" if part is None else f"split.files.{part}"
        frame = open_files(
            spark,
            uris,
            field=field,
            file_format=source.format,
            csv_options=source.csv_options,
            text_columns=text,
        )
        require_columns(frame, wanted, f"{field} ({', '.join(uris)})")
        if part is not None:
            frame = frame.withColumn(FILE_PART, F.lit(part))
        if union is None:
            union = frame
        else:
            first = f"split.files.{groups[0][0]}"
            union = append(union, frame, "split.files", first, field)
    assert union is not None
    return union


def canonical(
    raw: DataFrame, source: LogSource, split: Split, future_at: datetime | None
) -> DataFrame:
    """One row per raw row, with our columns and the raw row itself as struct ``raw``.

    Columns: raw, file, fingerprint (SHA-256 of the raw row), user_id, item_id, event, ts, value,
    weight, label_<name> for each label, source_split, part_rank (rank of the row's own part, -1:
    none), and two structs (reason, detail), null if no reason applies: early, checked before the
    catalogue, and late, checked after it.

    Raises:
        ConfigError: an expression or split.column_values does not fit the log.
        InputError: a column has a type that cannot be used.
    """
    from pyspark.sql import functions as F

    assert source.time is not None
    own = [name for name in visible(raw) if name != FILE_PART]
    kinds = {f.name: f.dataType.simpleString() for f in raw.schema}
    for field in ("user", "item", "event"):
        name = getattr(source, field)
        if name is not None and kinds[name].split("<")[0] in ("array", "map", "struct", "binary"):
            raise InputError(
                f"log.{field}: column {name!r} is of type {kinds[name]}, expected text or a number"
            )
    # pandas writes NaN for a missing number, and Spark holds it for larger than any other: it would
    # be a positive of rating >= 4.
    numbers = [name for name in raw.columns if kinds[name] in ("float", "double")]
    rows = raw.select(
        F.struct(*[column(name) for name in own]).alias(_RAW),
        *[column(name) for name in raw.columns if name not in numbers],
        *[F.when(~F.isnan(column(name)), column(name)).alias(name) for name in numbers],
    )
    value: Column = F.lit(None)
    if source.value is not None:
        value = F.col(_RAW).getField(source.value)
    user, item = column(source.user), column(source.item)
    user_kind, item_kind = kinds[source.user], kinds[source.item]
    malformed = F.col(MALFORMED) if MALFORMED in own else F.lit(None).cast("string")
    part: Column = F.lit(None).cast("string")
    if split.kind == "files":
        part = F.col(FILE_PART)
    elif source.split is not None:
        part = column(source.split).cast("string")
    selected = expressions.condition(raw, source.rows, "log.rows") if source.rows else F.lit(True)
    returned = (
        expressions.condition(raw, source.returns, "log.returns")
        if source.returns
        else F.lit(False)
    )
    event = column(source.event).cast("string") if source.event else F.lit(source.event_name)
    rows = rows.select(
        F.col(_RAW).alias("raw"),
        F.col(FILE).alias("file"),
        F.sha2(F.to_json(_RAW, JSON_OPTIONS), 256).alias("fingerprint"),
        id_text(user, user_kind, source.null_words).alias("user_id"),
        id_text(item, item_kind, source.null_words).alias("item_id"),
        F.coalesce(bad_id(user, user_kind), bad_id(item, item_kind)).alias("bad_id"),
        user.cast("string").alias("user_text"),
        item.cast("string").alias("item_text"),
        F.when(F.length(F.trim(event)) > 0, event).alias("event"),
        times.instant(
            column(source.time),
            kinds[source.time],
            source.time_format,
            f"log.time: column {source.time!r}",
        ).alias("ts"),
        value.try_cast("double").alias("value"),
        value.cast("string").alias("value_text"),
        expressions.number(raw, source.weight, "log.weight").alias("weight"),
        F.expr(f"CAST(({source.weight}) AS STRING)").alias("weight_text"),
        *[
            expressions.condition(raw, sql, f"log.labels.{name}").alias(f"label_{name}")
            for name, sql in source.labels.items()
        ],
        part.alias("source_split"),
        selected.alias("selected"),
        returned.alias("returned"),
        column(source.time).cast("string").alias("time_text"),
        malformed.alias("malformed"),
    )
    return _with_reasons(rows, split, future_at)


def _with_reasons(rows: DataFrame, split: Split, future_at: datetime | None) -> DataFrame:
    from pyspark.sql import functions as F

    future: Column = F.lit(False)
    if future_at is not None:
        future = F.unix_micros("ts") >= times.micros_of(future_at)
    has_value = F.col("value_text").isNotNull()
    unusable_value = has_value & (F.col("value").isNull() | ~_finite("value"))
    usable_weight = _finite("weight") & F.col("weight").between(*WEIGHTS)
    unusable_weight = ~F.coalesce(usable_weight, F.lit(False))
    line = F.substring("malformed", 1, _DETAIL_CHARACTERS)
    early = (
        (F.col("malformed").isNotNull(), "malformed_row", line),
        (F.col("bad_id").isNotNull(), "bad_id", F.col("bad_id")),
        (F.col("user_id").isNull(), "null_user", F.col("user_text")),
        (F.col("item_id").isNull(), "null_item", F.col("item_text")),
        (F.col("event").isNull(), "null_event", None),
        (F.col("ts").isNull(), "unparsable_time", F.col("time_text")),
        (future, "future_time", F.col("ts").cast("string")),
        (F.col("returned"), "return", None),
        (~F.col("selected"), "not_selected", None),
    )
    late = (
        (unusable_value, "bad_value", F.concat(F.lit("value "), F.col("value_text"))),
        (unusable_weight, "bad_value", F.concat(F.lit("weight "), _shown("weight_text"))),
    )
    return rows.select(
        *("raw", "file", "fingerprint", "user_id", "item_id", "event", "ts", "value", "weight"),
        *[name for name in rows.columns if name.startswith("label_")],
        "source_split",
        splits.part_rank(F.col("source_split"), split).alias("part_rank"),
        _first_of(early).alias("early"),
        _first_of(late).alias("late"),
    )


def _first_of(reasons: Sequence[tuple[Column, str, Column | None]]) -> Column:
    """Struct (reason, detail) of the first reason that applies; null if none does."""
    from pyspark.sql import functions as F

    first: Column = F.lit(None)
    for applies, reason, detail in reversed(reasons):
        shown = F.lit(None).cast("string") if detail is None else detail
        pair = F.struct(F.lit(reason).alias("reason"), shown.alias("detail"))
        first = F.when(applies, pair).otherwise(first)
    return first


def _finite(name: str) -> Column:
    from pyspark.sql import functions as F

    return ~F.isnan(name) & (F.abs(name) != float("inf"))


def _shown(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.coalesce(name, F.lit("null"))


def judged(rows: DataFrame, known_items: DataFrame | None) -> DataFrame:
    """Rows of ``canonical`` with their final ``reason`` and ``detail`` (null: usable).

    The result is partitioned by ``shard`` (the user, or the fingerprint if there is none), so that
    merging and ordering by user need no further shuffle.

    Args:
        rows: of ``canonical``.
        known_items: distinct item_id of the catalogue; None: every item is known.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    unknown: Column = F.lit(None)
    if known_items is not None:
        rows = rows.join(
            known_items.select("item_id", F.lit(True).alias("known")), "item_id", "left"
        )
        unknown = _first_of(((F.col("known").isNull(), "unknown_item", F.col("item_id")),))
    # Of equal rows the one with the latest part is kept: an event of train and test is for test.
    copies = Window.partitionBy("shard", "fingerprint").orderBy(F.desc("part_rank"), "file")
    copy = _first_of(((F.row_number().over(copies) > 1, "exact_duplicate", None),))
    placed = rows.withColumn("shard", F.coalesce("user_id", "fingerprint")).repartition("shard")
    verdict = F.coalesce(F.col("early"), unknown, F.col("late"), copy)
    return (
        placed.withColumn("verdict", verdict)
        .withColumn("reason", F.col("verdict.reason"))
        .withColumn("detail", F.col("verdict.detail"))
        .drop("early", "late", "verdict", "known")
    )


def rejected(lines: DataFrame, run_id: str) -> DataFrame:
    """Rows of ``judged`` with a reason, as rows of table quarantine."""
    from pyspark.sql import functions as F

    return lines.where(F.col("reason").isNotNull()).select(
        F.lit("interactions").alias("table"),
        "reason",
        "detail",
        F.to_json("raw", JSON_OPTIONS).alias("raw"),
        F.col("file").alias("source"),
        F.lit(run_id).alias("run_id"),
    )


def examples(
    lines: DataFrame, reasons: Sequence[str], known_items: DataFrame | None
) -> dict[str, str]:
    """Reason -> one of its details, quoted. This runs a job.

    Args:
        lines: of ``judged``.
        reasons: a few; those without a detail are absent from the result.
        known_items: as in ``judged``; an id of these is shown next to an unknown item.
    """
    from pyspark.sql import functions as F

    wanted = lines.where(F.col("reason").isin(*reasons))
    rows = wanted.groupBy("reason").agg(F.min("detail").alias("detail")).collect()
    details: Mapping[str, str | None] = {row["reason"]: row["detail"] for row in rows}
    shown = {reason: repr(detail) for reason, detail in details.items() if detail is not None}
    if "unknown_item" in shown and known_items is not None:
        row = known_items.agg(F.min("item_id").alias("item_id")).first()
        known = None if row is None else row["item_id"]
        beside = f"the catalogue has ids such as {known!r}" if known else "the catalogue has no id"
        shown["unknown_item"] += f", {beside}"
    return shown
