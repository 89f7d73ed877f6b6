"""What each item has in users' lists: entries, weight, decayed weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qarm.pairs.lists import LARGEST_ITEM, RECORD, WORDS, names_of, read_binary
from qarm.pairs.topk import exact_sum

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: Entries whose items are added up at once.
_TALLIED_ENTRIES = 1 << 22

ITEMS_SCHEMA = (
    "item_idx bigint, entries bigint, events bigint, near bigint, weight double, decayed double, "
    "heaviest double"
)


def tally_items(
    lists: DataFrame,
    half_life_micros: float,
    last: int,
    *,
    width: int = LARGEST_ITEM,
    once_a_user: bool = False,
) -> DataFrame:
    """What each item has in all lists: entries, sum of marks, weight, decayed weight.

    ``near`` adds up the entries of the lists, at most ``width`` for each entry of the item;
    ``heaviest`` is at least the weight of its heaviest entry, and its largest value is exact.

    Args:
        lists: rows of ``LISTS_SCHEMA``.
        half_life_micros: an event counts half for each half-life before ``last``; inf: no decay.
        last: microseconds.
        width: entries that an entry can reach, itself too.
        once_a_user: whether ``decayed`` adds up the largest decayed weight of each user only.
    """
    from pyspark.sql import functions as F

    tally = partial(
        stream_item_tally,
        half_life_micros=half_life_micros,
        last=last,
        width=width,
        once_a_user=once_a_user,
    )
    decays = once_a_user or not math.isinf(half_life_micros)
    items = (
        lists.select("entries")
        .mapInArrow(tally, ITEMS_SCHEMA)
        .groupBy("item_idx")
        .agg(
            F.sum("entries").alias("entries"),
            F.sum("events").alias("events"),
            F.sum("near").alias("near"),
            exact_sum("weight").alias("weight"),
            *([exact_sum("decayed").alias("decayed")] if decays else []),
            F.max("heaviest").alias("heaviest"),
        )
    )
    return items if decays else items.withColumn("decayed", F.col("weight"))


def stream_item_tally(
    batches: Iterable[pa.RecordBatch],
    half_life_micros: float,
    last: int,
    width: int = LARGEST_ITEM,
    once_a_user: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Lists -> partial sums, an item in one row per ``_TALLIED_ENTRIES``."""
    import pyarrow as pa

    from qarm.kernels.user_lists import sum_by_item

    names = names_of(ITEMS_SCHEMA)
    held: list[np.ndarray] = []
    lengths: list[np.ndarray] = []

    def flush() -> pa.RecordBatch:
        entries = np.concatenate(held)
        held.clear()
        factor = decay_of(entries["ts"], half_life_micros, last)
        length = np.concatenate(lengths)
        if once_a_user:
            user = np.repeat(np.arange(len(length)), length)
            factor *= largest_of_each(user, entries["item"], entries["weight"] * factor)
        lengths.clear()
        near = np.repeat(np.minimum(length, width), length)
        items, *sums = sum_by_item(entries.view(np.int64).reshape(-1, WORDS), near, factor)
        sums.append(np.full(len(items), entries["weight"].max()))
        return pa.record_batch([pa.array(items), *(pa.array(s) for s in sums)], names=names)

    for batch in batches:
        indptr, entries = read_binary(batch.column(0), RECORD)
        if len(entries):
            held.append(entries.copy())  # the batch's memory is reused
            lengths.append(np.diff(indptr))
        if sum(map(len, held)) >= _TALLIED_ENTRIES:
            yield flush()
    if held:
        yield flush()


def largest_of_each(user: np.ndarray, item: np.ndarray, value: np.ndarray) -> np.ndarray:
    """bool[n], one true entry for each (user, item): one of the largest value."""
    order = np.lexsort((-value, item, user))
    same = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    largest = np.empty(len(order), bool)
    largest[order] = np.concatenate([[True], ~same])
    return largest


def decay_of(ts: np.ndarray, half_life_micros: float, last: int) -> np.ndarray:
    """float64[n] 2^-(age / half-life), age in whole days before the day of ``last``."""
    if np.isinf(half_life_micros):
        return np.ones(len(ts))
    day = 86_400_000_000
    return np.asarray(2.0 ** ((ts // day - last // day) * (day / half_life_micros)))
