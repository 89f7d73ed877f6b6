"""The history of each sample: the user's latest positives before it.

The union of samples and positives is partitioned by user and sorted by time. One pass over it keeps
at most ``length`` positives of the current user in memory. There is no self-join, and no list per
user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.ranking.rates import MICROSECONDS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PADDING = -1
"""Marks padding in history_item_idx."""


def with_history(positives: DataFrame, samples: DataFrame, length: int) -> DataFrame:
    """``samples`` with history_length, history_item_idx and history_ts.

    Args:
        positives: (user_idx, item_idx, ts in microseconds) of all parts.
        samples: (user_idx, item_idx, ts in microseconds, scalar columns).
        length: entries of a history: the latest positives strictly before the sample, oldest first,
            padded on the left with -1 (0 in history_ts, which is in epoch seconds).
    """
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    # At equal times samples sort before positives, so that all rows before a sample are earlier.
    rows = samples.withColumn("__positive", F.lit(False)).unionByName(
        positives.select("user_idx", "item_idx", "ts", F.lit(True).alias("__positive")),
        allowMissingColumns=True,
    )
    by_user = rows.repartition("user_idx").sortWithinPartitions(
        "user_idx", "ts", "__positive", "item_idx"
    )
    longs = T.ArrayType(T.LongType(), containsNull=False)
    schema = T.StructType(
        [
            *samples.schema.fields,
            T.StructField("history_length", T.IntegerType(), nullable=False),
            T.StructField("history_item_idx", longs, nullable=False),
            T.StructField("history_ts", longs, nullable=False),
        ]
    )

    def attach(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return attach_histories(batches, length)

    return by_user.mapInArrow(attach, schema)


def attach_histories(batches: Iterable[pa.RecordBatch], length: int) -> Iterator[pa.RecordBatch]:
    """Spark task: rows sorted by (user_idx, ts, __positive) -> samples with histories.

    A user may span batches; the latest ``length`` positives are carried over.
    """
    none = np.zeros(0, dtype=np.int64)
    carried_user, carried_item, carried_ts = none, none, none
    for batch in batches:
        if not batch.num_rows:
            continue
        user, ts = (batch.column(c).to_numpy() for c in ("user_idx", "ts"))
        positive = batch.column("__positive").to_numpy(zero_copy_only=False)
        item = batch.column("item_idx").to_numpy()
        seen_user = np.concatenate([carried_user, user[positive]])
        seen_item = np.concatenate([carried_item, item[positive]])
        seen_ts = np.concatenate([carried_ts, ts[positive]])

        samples = np.flatnonzero(~positive)
        if len(samples):
            end = len(carried_user) + np.cumsum(positive)[samples]
            start = np.searchsorted(seen_user, user[samples], side="left")
            place = end[:, None] - length + np.arange(length)
            real = place >= start[:, None]
            place = np.where(real, place, 0)
            if not len(seen_item):  # something for the padding to point at
                seen_item = seen_ts = np.zeros(1, dtype=np.int64)
            items = np.where(real, seen_item[place], PADDING)
            times = np.where(real, seen_ts[place] // MICROSECONDS, 0)
            names = [n for n in batch.schema.names if n != "__positive"]
            taken = batch.select(names).take(pa.array(samples))
            counts = np.minimum(end - start, length).astype(np.int32)
            yield pa.RecordBatch.from_arrays(
                [*taken.columns, pa.array(counts), _lists(items), _lists(times)],
                names=[*names, "history_length", "history_item_idx", "history_ts"],
            )
        own = np.searchsorted(seen_user, user[-1], side="left")
        last = slice(max(own, len(seen_user) - length), len(seen_user))
        carried_user, carried_item, carried_ts = seen_user[last], seen_item[last], seen_ts[last]


def _lists(values: NDArray[Any]) -> pa.ListArray:
    """(rows, length) as one list per row."""
    rows, length = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * length)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))
