"""Which items codebooks are fitted on, and what was known of each item when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qarm.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Values of column ``seen``.
KNOWN, LATER, NEVER = "known", "later", "never"


def count_by_encoder(embeddings: DataFrame) -> dict[str, int]:
    """Encoder version -> rows of ``item_embeddings``.

    Raises:
        InputError: the table is empty.
    """
    rows = embeddings.groupBy("encoder_version").count().collect()
    counts = {row[0]: int(row[1]) for row in sorted(rows)}
    if not counts:
        raise InputError("item_embeddings has no rows; expected one per item of the catalogue")
    return counts


def one_encoder(counts: dict[str, int]) -> str:
    """The encoder of ``item_embeddings``, of which there must be one.

    Args:
        counts: see ``count_by_encoder``.

    Raises:
        InputError: several encoders.
    """
    if len(counts) > 1:
        raise InputError(
            f"item_embeddings has vectors of {len(counts)} encoders: {counts}; a codebook is "
            "fitted on one. Remove the others, or bring the one you want under [external.tables] "
            "item_embeddings"
        )
    return next(iter(counts))


def with_seen(items: DataFrame, event_splits: DataFrame | None, parts: Sequence[str]) -> DataFrame:
    """``items`` (with item_idx) and column ``seen``.

    known: the item has an event in ``parts``, those of training; later: only in other parts; never:
    it has no event. Without a log (None) all items are known. The part decides, not the time: under
    a split by user the training part does not end at one time.
    """
    from pyspark.sql import functions as F

    if event_splits is None:
        return items.withColumn("seen", F.lit(KNOWN))
    seen = event_splits.groupBy("item_idx").agg(
        F.when(F.max(F.col("part").isin(*parts)), KNOWN).otherwise(LATER).alias("seen")
    )
    return items.join(seen, "item_idx", "left").fillna(NEVER, "seen")


def count_events(event_splits: DataFrame, parts: Sequence[str]) -> DataFrame:
    """(item_idx, events): events of ``parts`` per item."""
    from pyspark.sql import functions as F

    wanted = event_splits.where(F.col("part").isin(*parts))
    return wanted.groupBy("item_idx").agg(F.count("*").alias("events"))


def usable_vectors(
    embeddings: DataFrame, event_splits: DataFrame | None, parts: Sequence[str]
) -> tuple[DataFrame, dict[str, int]]:
    """What codebooks are fitted on: items of the training part that have content.

    Args:
        embeddings: rows of item_embeddings of one encoder.
        event_splits: the log's events with their part; None: there is no log.
        parts: of training.

    Returns:
        (item_id, item_idx, vector); rows of each use: ``fit``, or why not.
    """
    from pyspark.sql import functions as F

    use = (
        # A zero vector is the absence of content; as an anchor it would be near to everything.
        F.when(F.forall("vector", lambda x: x == 0), "zero_vector")
        .when(F.col("seen") == KNOWN, "fit")
        .when(F.col("seen") == LATER, "after_train_end")
        .otherwise("no_event")
    )
    marked = with_seen(embeddings.select("item_id", "item_idx", "vector"), event_splits, parts)
    marked = marked.withColumn("use", use).drop("seen")
    counts = {row["use"]: int(row["count"]) for row in marked.groupBy("use").count().collect()}
    return marked.where("use = 'fit'").drop("use"), counts
