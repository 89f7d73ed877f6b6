"""Changes of tables items and users: new, changed and removed rows. Indices are never reused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from qarm.ingest import content, times
from qarm.ingest.indices import numbered
from qarm.lake.caching import Keeper
from qarm.lake.tables import Lake, TableRef
from schemas import items, users

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True, kw_only=True)
class Known:
    """Tables items and users at the start of the run."""

    items: DataFrame
    users: DataFrame
    versions: dict[str, int]
    """Table -> version; -1: it does not exist yet."""

    @property
    def next_item(self) -> int:
        """The first item_idx that was never assigned."""
        return 0 if self.versions["items"] < 0 else _next(self.items, "item_idx")

    @property
    def next_user(self) -> int:
        """The first user_idx that was never assigned."""
        return 0 if self.versions["users"] < 0 else _next(self.users, "user_idx")


def existing(lake: Lake) -> Known:
    """Items and users at their latest version.

    Not at the published version: indices that a crashed run has assigned stay assigned.
    """
    frames, versions = {}, {}
    for table in (items.TABLE, users.TABLE):
        if lake.version(table.name) >= 0:
            lake.create(table)  # adds the columns that an earlier release did not have
        version = versions[table.name] = lake.version(table.name)
        if version < 0:
            frames[table.name] = lake.spark.createDataFrame(
                [], table.ddl().replace(" NOT NULL", "")
            )
        else:
            ref = TableRef(table.name, lake.path(table.name), version)
            frames[table.name] = lake.read(ref)
    return Known(items=frames["items"], users=frames["users"], versions=versions)


def _next(known: DataFrame, index: str) -> int:
    from pyspark.sql import functions as F

    row = known.agg(F.max(index)).first()
    return 0 if row is None or row[0] is None else int(row[0]) + 1


def user_changes(seen: DataFrame, known: Known, source_type: str, keep: Keeper) -> DataFrame:
    """Rows of users to merge: new users, and those with an earlier first event than known.

    Args:
        seen: (user_id, first_seen) of this log, one row per user.
        known: the tables at the start of the run.
        source_type: type of the id in the source.
        keep: frees the numbered rows later.
    """
    from pyspark.sql import functions as F

    new = seen.select("user_id", "first_seen").join(known.users, "user_id", "left_anti")
    order = [F.col("first_seen").asc(), F.col("user_id").asc()]
    fresh, _ = numbered(new, order, "user_idx", keep, start=known.next_user)
    earlier = known.users.join(
        seen.select("user_id", F.col("first_seen").alias("since")), "user_id"
    ).where("since < first_seen")
    return fresh.select(
        "user_id",
        "user_idx",
        "first_seen",
        F.lit(None).cast("timestamp").alias("removed_at"),
        F.lit(source_type).alias("source_type"),
    ).unionByName(earlier.withColumn("first_seen", F.col("since")).drop("since"))


def named_by_log_only(
    seen: DataFrame, catalog: DataFrame, known: DataFrame, source_type: str
) -> DataFrame:
    """Items that only the log names (items.unknown = "keep"): an id without content.

    Items that once had content have left the catalogue; their content is not removed.
    """
    from pyspark.sql import functions as F

    kinds = {f.name: f.dataType for f in known.schema}
    described = known.where(F.col("content_hash") != content.content_hash())
    return (
        seen.select("item_id")
        .join(catalog.select("item_id"), "item_id", "left_anti")
        .join(described.select("item_id"), "item_id", "left_anti")
        .select(
            "item_id",
            *[F.lit(None).cast(kinds[name]).alias(name) for name in content.CONTENT],
            content.content_hash().alias("content_hash"),
            F.lit(source_type).alias("source_type"),
        )
    )


def item_changes(catalog: DataFrame, seen: DataFrame, known: Known, keep: Keeper) -> DataFrame:
    """Rows of items to merge: new items, and those with another content, first event or presence.

    Args:
        catalog: all present items: item_id, content columns, content_hash, source_type.
        seen: (item_id, first_seen) of this log.
        known: the tables at the start of the run.
        keep: frees the numbered rows later.
    """
    from pyspark.sql import functions as F

    before = known.items.select(
        "item_id",
        F.col("item_idx"),
        F.col("first_seen").alias("known_first"),
        F.col("content_hash").alias("known_hash"),
        F.col("removed_at").alias("known_removed"),
    )
    current = (
        catalog.join(seen.select("item_id", F.col("first_seen").alias("since")), "item_id", "left")
        .join(before, "item_id", "left")
        .withColumn("first_seen", F.least("since", "known_first"))
        .withColumn("removed_at", F.lit(None).cast("timestamp"))
    )
    changed = (
        (F.col("content_hash") != F.col("known_hash"))
        | F.col("known_removed").isNotNull()
        | ~F.col("first_seen").eqNullSafe(F.col("known_first"))
    )
    columns = known.items.columns
    # Only ids and times are sorted, not the contents with their images.
    new = current.where(F.col("item_idx").isNull())
    order = [F.col("first_seen").asc_nulls_last(), F.col("item_id").asc()]
    fresh, _ = numbered(
        new.select("item_id", "first_seen"),
        order,
        "item_idx",
        keep,
        start=known.next_item,
    )
    added = new.drop("item_idx").join(fresh.select("item_id", "item_idx"), "item_id")
    altered = current.where(F.col("item_idx").isNotNull() & changed)
    return added.select(*columns).unionByName(altered.select(*columns))


def items_removed(catalog: DataFrame, known: DataFrame, as_of: datetime) -> DataFrame:
    """Rows of items that are in the table but no longer in the catalogue's files.

    Items without content were never in a catalogue, only in a log: they stay present.
    """
    from pyspark.sql import functions as F

    moment = F.timestamp_micros(F.lit(times.micros_of(as_of)))
    return (
        known.where(
            F.col("removed_at").isNull() & (F.col("content_hash") != content.content_hash())
        )
        .join(catalog.select("item_id"), "item_id", "left_anti")
        .withColumn("removed_at", moment)
        .select(*known.columns)
    )
