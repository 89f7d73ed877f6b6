"""Rows of the tables before they are written, and counts of the committed tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qarm.errors import RowsLostError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def seen(events: DataFrame, id_column: str) -> DataFrame:
    """(id, first_seen, events) of each user or item of the log."""
    from pyspark.sql import functions as F

    return events.groupBy(id_column).agg(
        F.min("ts").alias("first_seen"), F.count("*").alias("events")
    )


def with_indices(events: DataFrame, users: DataFrame, items: DataFrame) -> DataFrame:
    """``events`` with user_idx and item_idx of the committed tables."""
    return events.join(users.select("user_id", "user_idx"), "user_id").join(
        items.select("item_id", "item_idx"), "item_id"
    )


def interactions(indexed: DataFrame, labels: Sequence[str]) -> DataFrame:
    """Rows of table interactions: with labels as a map to 0 and 1, and with the day."""
    from pyspark.sql import functions as F

    pairs = [
        part for name in labels for part in (F.lit(name), F.col(f"label_{name}").cast("float"))
    ]
    return indexed.withColumn("labels", F.create_map(*pairs)).withColumn("dt", F.to_date("ts"))


def reason_counts(lines: DataFrame, reasons: Sequence[str]) -> dict[str, int]:
    """Reason -> rows, in the order of ``reasons``."""
    rows = lines.where("reason IS NOT NULL").groupBy("reason").count().collect()
    counted = {row["reason"]: int(row["count"]) for row in rows}
    return {reason: counted[reason] for reason in reasons if reason in counted}


def quarantined(quarantine: DataFrame) -> dict[tuple[str, str], int]:
    """(table, reason) -> rows of the committed quarantine."""
    rows = quarantine.groupBy("table", "reason").count().collect()
    return {(row["table"], row["reason"]): int(row["count"]) for row in rows}


def written(interactions: DataFrame) -> dict[str, int]:
    """Rows of the committed interactions, and their source lines."""
    from pyspark.sql import functions as F

    row = interactions.agg(F.count("*").alias("rows"), F.sum("lines").alias("lines")).first()
    assert row is not None
    return {"rows": int(row["rows"]), "lines": int(row["lines"] or 0)}


def catalog_written(items: DataFrame, catalog: DataFrame) -> dict[str, int]:
    """Rows of the committed items: present, removed, and those present that are in ``catalog``.

    Raises:
        RowsLostError: indices are not dense or not distinct.
    """
    from pyspark.sql import functions as F

    named = catalog.select("item_id", F.lit(True).alias("named"))
    row = (
        items.select("item_id", "item_idx", "removed_at")
        .join(named, "item_id", "left")
        .agg(
            F.count_if(F.col("removed_at").isNull()).alias("present"),
            F.count_if(F.col("removed_at").isNotNull()).alias("removed"),
            F.count_if(F.col("removed_at").isNull() & F.col("named")).alias("of_catalog"),
            F.max("item_idx").alias("last"),
            F.count_distinct("item_idx").alias("distinct"),
        )
        .first()
    )
    assert row is not None
    counts = {name: int(row[name]) for name in ("present", "removed", "of_catalog")}
    rows = counts["present"] + counts["removed"]
    if rows and not rows == int(row["distinct"]) == int(row["last"]) + 1:
        raise RowsLostError(
            f"items: item_idx must be dense and distinct, seen {rows} rows, {row['distinct']} "
            f"distinct indices, the last {row['last']}; two ingests may have run at once"
        )
    return counts
