"""User2Item ("exploration") pairs: a target event, and the most similar item before it (QARM)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.pairs.mined import Mined
from qarm.pairs.topk import exact_sum, top_k

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: The number of target events, and reasons why one has no pair. no_earlier_event: the window is
#: empty; no_candidate: it holds only the target itself and items without a vector.
TARGET_COUNTS = (
    "targets",
    "no_vector",
    "no_earlier_event",
    "no_candidate",
    "below_min_similarity",
)

#: Similarities are averaged as multiples of this: sums of integers do not depend on their order.
_SIMILARITY_STEP = 2.0**-32

_SCHEMA = (
    "trigger bigint, target bigint, user_idx bigint, ts bigint, similarity double, weight double, "
    "counts array<bigint>"
)


def user2item(
    events: DataFrame, vectors: DataFrame, window: int, min_similarity: float
) -> DataFrame:
    """One row per (user, target event) that has a trigger.

    The trigger is the item of the user's latest ``window`` events strictly before the target's
    ``ts`` whose vector has the largest cosine with the target's. Events with equal ``ts`` are
    not earlier. The target's own item is never its trigger; an item without a vector, or with a
    zero vector, is neither trigger nor target, but its events count towards the window. Ties go to
    the latest event, then to the smallest item.

    Args:
        events: user_idx, item_idx, ts, weight, is_target (boolean: whether to find its trigger).
        vectors: item_idx, vector (array<float> of one length); unique by item.
        window: number of latest events among which the trigger is chosen.
        min_similarity: smallest cosine.

    Returns:
        trigger, target, user_idx, ts, similarity, weight (of the target event).

    Raises:
        ValueError: vectors of different lengths (inside a task).
    """
    return mine_user2item(events, vectors, window, min_similarity).pairs


def mine_user2item(
    events: DataFrame, vectors: DataFrame, window: int, min_similarity: float
) -> Mined:
    """``user2item`` with counts of the targets that have no trigger (``TARGET_COUNTS``)."""
    from pyspark.sql import functions as F

    first = vectors.select(F.size("vector").alias("dimensions")).first()
    dimensions = max(first["dimensions"], 1) if first is not None else 1
    rows = (
        events.select(
            "user_idx",
            "item_idx",
            F.unix_micros("ts").alias("ts"),
            F.col("weight").cast("double"),
            "is_target",
        )
        .join(vectors.select("item_idx", "vector"), "item_idx", "left")
        .repartition("user_idx")
        .sortWithinPartitions("user_idx", "ts", F.desc("item_idx"))
        .select("user_idx", "item_idx", "ts", "weight", "is_target", "vector")
        .mapInArrow(
            partial(
                stream_triggers, window=window, min_similarity=min_similarity, dimensions=dimensions
            ),
            _SCHEMA,
        )
        .withColumn("ts", F.timestamp_micros("ts"))
    )
    return Mined(rows=rows, names=TARGET_COUNTS)


def _vectors(column: pa.Array, dimensions: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Unit vectors float32[m, d] of the rows that have one, and each row's index (-1: none)."""
    from qarm.kernels.similar_trigger import unit_rows

    there = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if len(flat) != there.sum() * dimensions:
        raise ValueError(
            f"User2Item: all vectors must have {dimensions} numbers like the first one; seen "
            f"{len(flat)} numbers in {there.sum()} vectors"
        )
    units, has_length = unit_rows(flat.reshape(-1, dimensions))
    place = np.full(len(there), -1, np.int64)
    place[there] = np.where(has_length, np.arange(len(units)), -1)
    return units, place


def stream_triggers(
    batches: Iterable[pa.RecordBatch], window: int, min_similarity: float, dimensions: int
) -> Iterator[pa.RecordBatch]:
    """Events sorted by (user, ts, item descending) -> rows of ``_SCHEMA``."""
    import pyarrow as pa

    from qarm.kernels import similar_trigger as kernel

    names = [column.split()[0] for column in _SCHEMA.split(", ")]
    counts = np.zeros(kernel.NOT_A_TARGET + 1, np.int64)
    state = kernel.new_state(window, dimensions)
    for batch in batches:
        user, item, ts, weight, is_target = (
            batch.column(k).to_numpy(zero_copy_only=False) for k in range(5)
        )
        units, place = _vectors(batch.column(5), dimensions)
        trigger, similarity, outcome = kernel.find_triggers(
            user, item, ts, is_target, place, units, min_similarity, state
        )
        counts += np.bincount(outcome, minlength=len(counts))
        found = outcome == kernel.PAIR
        columns = (trigger, item, user, ts, similarity, weight)
        arrays = [pa.array(column[found]) for column in columns]
        nulls = pa.nulls(int(found.sum()), pa.list_(pa.int64()))
        yield pa.record_batch([*arrays, nulls], names=names)
    tally = [int(counts[: kernel.NOT_A_TARGET].sum()), *counts[1 : kernel.NOT_A_TARGET].tolist()]
    types = [pa.int64()] * 4 + [pa.float64()] * 2
    empty = [pa.nulls(1, kind) for kind in types]
    yield pa.record_batch([*empty, pa.array([tally], pa.list_(pa.int64()))], names=names)


def user_pairs(rows: DataFrame, *by: str) -> DataFrame:
    """Rows of ``user2item`` -> one row per (user, trigger, target, *by): similarity (sum, in units
    of 2^-32), events, weight, last_ts. They add up exactly, in any order.
    """
    from pyspark.sql import functions as F

    units = F.rint(F.col("similarity") / F.lit(_SIMILARITY_STEP)).cast("bigint")
    return rows.groupBy("user_idx", "trigger", "target", *by).agg(
        F.sum(units).alias("similarity"),
        F.count("*").alias("events"),
        F.sum(F.col("weight").cast("decimal(28,12)")).cast("decimal(28,12)").alias("weight"),
        F.max("ts").alias("last_ts"),
    )


def pair_user2item(pairs: DataFrame) -> DataFrame:
    """Rows of ``user_pairs`` -> one row per pair: score (mean similarity), support (distinct
    users), weight (sum of the target events' weights), last_ts.
    """
    from pyspark.sql import functions as F

    per_user = pairs.groupBy("trigger", "target", "user_idx").agg(
        *(F.sum(name).alias(name) for name in ("similarity", "events", "weight")),
        F.max("last_ts").alias("last_ts"),
    )
    step = F.lit(_SIMILARITY_STEP)
    return per_user.groupBy("trigger", "target").agg(
        (F.sum("similarity").cast("double") * step / F.sum("events")).alias("score"),
        F.count("*").alias("support"),
        exact_sum("weight").alias("weight"),
        F.max("last_ts").alias("last_ts"),
    )


def cap_user2item(pairs: DataFrame, max_pairs_per_item: int) -> DataFrame:
    """The ``max_pairs_per_item`` pairs of each target with most support, then the best score."""
    from pyspark.sql import functions as F

    order = [F.desc("support"), F.desc("score"), F.asc("trigger")]
    return top_k(pairs, ["target"], order, max_pairs_per_item)
