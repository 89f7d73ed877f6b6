"""What each item has in users' lists: entries, events, weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.pairs.lists import LARGEST_ITEM, RECORD, WORDS, names_of, read_binary
from qarm.pairs.topk import exact_sum

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: Entries whose items are added up at once.
_TALLIED_ENTRIES = 1 << 22

ITEMS_SCHEMA = (
    "item_idx bigint, entries bigint, events bigint, near bigint, weight double, heaviest double"
)


def tally_items(lists: DataFrame, width: int = LARGEST_ITEM) -> DataFrame:
    """What each item has in all lists: entries, sum of marks, near, weight, heaviest.

    ``near`` adds up the lengths of the lists, at most ``width`` for each entry of the item;
    ``heaviest`` is at least the weight of its heaviest entry, and its largest value is exact.

    Args:
        lists: rows of ``LISTS_SCHEMA``.
        width: entries that an entry can reach, including itself.
    """
    from pyspark.sql import functions as F

    return (
        lists.select("entries")
        .mapInArrow(partial(stream_item_tally, width=width), ITEMS_SCHEMA)
        .groupBy("item_idx")
        .agg(
            F.sum("entries").alias("entries"),
            F.sum("events").alias("events"),
            F.sum("near").alias("near"),
            exact_sum("weight").alias("weight"),
            F.max("heaviest").alias("heaviest"),
        )
    )


def stream_item_tally(
    batches: Iterable[pa.RecordBatch], width: int = LARGEST_ITEM
) -> Iterator[pa.RecordBatch]:
    """Spark task: lists -> partial sums, one row per item and ``_TALLIED_ENTRIES`` entries."""
    import pyarrow as pa

    from qarm.kernels.user_lists import sum_by_item

    held: list[NDArray[Any]] = []
    lengths: list[NDArray[Any]] = []

    def flush() -> pa.RecordBatch:
        entries, length = np.concatenate(held), np.concatenate(lengths)
        held.clear()
        lengths.clear()
        near = np.repeat(np.minimum(length, width), length)
        items, *sums = sum_by_item(entries.view(np.int64).reshape(-1, WORDS), near)
        sums.append(np.full(len(items), entries["weight"].max()))
        arrays = [pa.array(items), *(pa.array(s) for s in sums)]
        return pa.record_batch(arrays, names=names_of(ITEMS_SCHEMA))

    for batch in batches:
        indptr, entries = read_binary(batch.column(0), RECORD)
        if len(entries):
            held.append(entries.copy())  # the batch's memory is reused
            lengths.append(np.diff(indptr))
        if sum(map(len, held)) >= _TALLIED_ENTRIES:
            yield flush()
    if held:
        yield flush()
