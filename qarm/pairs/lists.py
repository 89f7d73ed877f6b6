"""Users' lists: everything that a miner needs of a user, packed into one row.

One shuffle by user makes them: each map task cuts and packs the events of its users, each reduce
task combines the parts. Spark moves a few large binary rows instead of one row per event, and
kernels sort several times faster than the JVM compares rows. Because lists are cut before the
shuffle, a map task never sends more than the cap of one user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: An entry of a list. ``mark`` is a position or a number of events, depending on the miner.
RECORD = np.dtype([("item", "<i4"), ("mark", "<i4"), ("ts", "<i8"), ("weight", "<f8")])
#: A record as int64 words, which is how kernels copy it.
WORDS = RECORD.itemsize // 8
LARGEST_ITEM = 2**31 - 1
LISTS_SCHEMA = "user_idx bigint, events bigint, found bigint, kept_events bigint, entries binary"

#: An event on its way to the reducer of its user.
_PART = np.dtype(
    [("item", "<i4"), ("events", "<i4"), ("ts", "<i8"), ("seq", "<i8"), ("weight", "<f8")]
)
_PARTS_SCHEMA = "key bigint, users binary, lengths binary, rows binary"
#: Events that a map task buffers before it packs them; rows packed at once by a reduce task.
_HELD_EVENTS = 1 << 20
#: Events of one reduce task: 130 MB beside the worker itself.
_REDUCED_EVENTS = 1 << 21
#: Events of one user in a map task above which those with one item are merged there.
_MERGED_EVENTS = 1 << 16


class Lists(NamedTuple):
    """Packed lists of several users."""

    indptr: NDArray[Any]
    """int64[users + 1], bounds of each user's entries."""
    entries: NDArray[Any]
    """``RECORD``[...]"""
    found: NDArray[Any]
    """int64[users], entries that there would be without a cap."""
    kept_events: NDArray[Any]
    """int64[users], events behind the entries."""


Columns = dict[str, NDArray[Any]]
"""item_idx, ts, seq, weight and events (number of events behind a row), user by user."""


class Packer(Protocol):
    """Makes lists from events."""

    def shrink(self, indptr: NDArray[Any], columns: Columns) -> tuple[NDArray[Any], Columns]:
        """Some events of each user -> fewer rows that lead to the same list, and their bounds."""

    def pack(self, indptr: NDArray[Any], columns: Columns) -> Lists:
        """All events of some users -> their lists; ``indptr``: bounds of each user's events."""


@dataclass(frozen=True)
class LatestEvents:
    """The latest ``most`` events, in their order; ``mark``: the place in the list.

    Order: seq, then ts, then the larger item first, then the larger weight first, so that
    among equal events at the cut the smallest item is kept.
    """

    most: int

    def shrink(self, indptr: NDArray[Any], columns: Columns) -> tuple[NDArray[Any], Columns]:
        """See ``Packer``. Dropped events are counted on the first one that is kept."""
        if np.diff(indptr).max() <= self.most:
            return indptr, columns
        bounds, kept = self._latest(indptr, columns)
        fewer = {name: column[kept] for name, column in columns.items()}
        before = np.add.reduceat(columns["events"], indptr[:-1])
        after = np.add.reduceat(fewer["events"], bounds[:-1])
        fewer["events"][bounds[:-1]] += before - after
        return bounds, fewer

    def pack(self, indptr: NDArray[Any], columns: Columns) -> Lists:
        """See ``Packer``."""
        bounds, kept = self._latest(indptr, columns)
        lengths = np.diff(bounds)
        entries = np.empty(len(kept), RECORD)
        entries["item"] = columns["item_idx"][kept]
        entries["mark"] = np.arange(len(kept)) - np.repeat(bounds[:-1], lengths)
        entries["ts"] = columns["ts"][kept]
        entries["weight"] = columns["weight"][kept]
        return Lists(bounds, entries, np.add.reduceat(columns["events"], indptr[:-1]), lengths)

    def _latest(self, indptr: NDArray[Any], columns: Columns) -> tuple[NDArray[Any], NDArray[Any]]:
        from qarm.kernels.user_lists import latest

        seq, ts, item, weight = (columns[n] for n in ("seq", "ts", "item_idx", "weight"))
        bounds, kept = latest(indptr, seq, ts, item, weight, self.most)
        return bounds, kept


@dataclass(frozen=True)
class DistinctItems:
    """A user's distinct items, ascending; ``mark``: events of the user with the item.

    Above ``most`` items the latest ones are kept (ties: the smaller item), or none if ``drop``; a
    user with fewer than ``least`` items has an empty list. ts is the latest of the item's events,
    weight their sum.
    """

    least: int
    most: int
    drop: bool

    def shrink(self, indptr: NDArray[Any], columns: Columns) -> tuple[NDArray[Any], Columns]:
        """See ``Packer``. Merges rows of one item only for users with very many: the last bits of
        a sum of weights depend on the order, and the order is arbitrary here.
        """
        if np.diff(indptr).max() <= _MERGED_EVENTS:
            return indptr, columns
        bounds, *values, _ = self._distinct(indptr, columns, 0, LARGEST_ITEM, False)
        names = ("item_idx", "ts", "weight", "events")
        return bounds, {
            "seq": np.zeros(bounds[-1], np.int64),
            **dict(zip(names, values, strict=True)),
        }

    def pack(self, indptr: NDArray[Any], columns: Columns) -> Lists:
        """See ``Packer``."""
        bounds, item, ts, weight, events, found = self._distinct(
            indptr, columns, self.least, self.most, self.drop
        )
        entries = np.empty(len(item), RECORD)
        entries["item"], entries["mark"] = item, events
        entries["ts"], entries["weight"] = ts, weight
        sums = np.concatenate([[0], np.cumsum(events)])
        return Lists(bounds, entries, found, np.diff(sums[bounds]))

    def _distinct(
        self, indptr: NDArray[Any], columns: Columns, least: int, most: int, drop: bool
    ) -> tuple[NDArray[Any], ...]:
        from qarm.kernels.user_lists import distinct

        item, ts, weight, events = (columns[n] for n in ("item_idx", "ts", "weight", "events"))
        merged: tuple[NDArray[Any], ...] = distinct(
            indptr, item, ts, weight, events, least, most, drop
        )
        return merged


def pack_lists(events: DataFrame, packer: Packer) -> DataFrame:
    """One row per user, as in ``LISTS_SCHEMA``.

    Args:
        events: user_idx, item_idx, ts, seq, weight; read twice, so persist them before if they are
            expensive to compute.
        packer: what goes into a list.
    """
    from pyspark.sql import functions as F

    from qarm.pairs.keys import partition_keys

    spark = events.sparkSession
    cores = spark.sparkContext.defaultParallelism
    # The same number per core, so that no core waits for a last task.
    partitions = cores * max(1, -(-events.count() // (cores * _REDUCED_EVENTS)))
    keys = partition_keys(spark, partitions)
    return (
        events.select(
            F.col("user_idx").cast("bigint").alias("user_idx"),
            F.col("item_idx").cast("bigint").alias("item_idx"),
            F.unix_micros("ts").alias("ts"),
            F.col("seq").cast("bigint").alias("seq"),
            F.col("weight").cast("double").alias("weight"),
        )
        .mapInArrow(partial(stream_parts, packer=packer, keys=keys), _PARTS_SCHEMA)
        .repartition(partitions, "key")
        .mapInArrow(partial(stream_lists, packer=packer), LISTS_SCHEMA)
    )


def stream_parts(
    batches: Iterable[pa.RecordBatch], packer: Packer, keys: NDArray[Any]
) -> Iterator[pa.RecordBatch]:
    """Events in any order -> rows of ``_PARTS_SCHEMA``: users' cut events, one row per reduce task.

    Raises:
        ValueError: an item_idx does not fit into 31 bits.
    """
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if batch.num_rows:
            held.append(batch)
            rows += batch.num_rows
        if rows >= _HELD_EVENTS:
            yield _pack_parts(held, packer, keys)
            held, rows = [], 0
    if held:
        yield _pack_parts(held, packer, keys)


def _pack_parts(
    batches: list[pa.RecordBatch], packer: Packer, keys: NDArray[Any]
) -> pa.RecordBatch:
    import pyarrow as pa

    from qarm.kernels.user_lists import gather, group

    table = pa.Table.from_batches(batches)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    if columns["item_idx"].max() > LARGEST_ITEM or columns["item_idx"].min() < 0:
        raise ValueError(
            f"item_idx must be a dense number from 0 to {LARGEST_ITEM}, as ingest assigns it; seen "
            f"{columns['item_idx'].min()} to {columns['item_idx'].max()}"
        )
    users, indptr, order = group(columns.pop("user_idx"))
    columns = {name: column[order] for name, column in columns.items()}
    columns["events"] = np.ones(len(order), np.int64)
    indptr, columns = packer.shrink(indptr, columns)
    place = spread(users, len(keys))
    by_place = np.argsort(place, kind="stable")
    rows = gather(indptr, by_place)
    packed = np.empty(len(rows), _PART)
    for name in _PART.names or ():
        packed[name] = columns["item_idx" if name == "item" else name][rows]
    lengths = np.diff(indptr)[by_place]
    cuts = np.searchsorted(place[by_place], np.arange(len(keys) + 1))
    row_cuts = np.concatenate([[0], np.cumsum(lengths)])[cuts]
    return pa.record_batch(
        [
            pa.array(keys),
            binary_column(cuts, users[by_place]),
            binary_column(cuts, lengths),
            binary_column(row_cuts, packed),
        ],
        names=names_of(_PARTS_SCHEMA),
    )


def spread(users: NDArray[Any], partitions: int) -> NDArray[Any]:
    """The task of each user: the high bits of a multiplicative hash."""
    mixed = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(40)) % np.uint64(partitions)).astype(np.int64)


def stream_lists(batches: Iterable[pa.RecordBatch], packer: Packer) -> Iterator[pa.RecordBatch]:
    """All parts of some users -> rows of ``LISTS_SCHEMA``, by user."""
    import pyarrow as pa

    from qarm.kernels.user_lists import group

    held: list[tuple[NDArray[Any], ...]] = []
    whole = np.dtype(np.int64)
    for batch in batches:
        read = (read_binary(batch.column(k + 1), t)[1] for k, t in enumerate((whole, whole, _PART)))
        held.append(tuple(column.copy() for column in read))  # the memory is reused
    if not sum(len(part[2]) for part in held):
        return
    parts, lengths, rows = (np.concatenate([part[k] for part in held]) for k in range(3))
    held.clear()
    users, indptr, order = group(np.repeat(parts, lengths))
    first = 0
    while first < len(users):
        last = int(np.searchsorted(indptr, indptr[first] + _HELD_EVENTS, "right")) - 1
        last = max(last, first + 1)
        some = rows[order[indptr[first] : indptr[last]]]
        columns = {
            "item_idx": some["item"].astype(np.int64),
            "events": some["events"].astype(np.int64),
            **{name: np.ascontiguousarray(some[name]) for name in ("ts", "seq", "weight")},
        }
        bounds = indptr[first : last + 1] - indptr[first]
        lists = packer.pack(bounds, columns)
        yield pa.record_batch(
            [
                pa.array(users[first:last]),
                pa.array(np.add.reduceat(columns["events"], bounds[:-1])),
                pa.array(lists.found),
                pa.array(lists.kept_events),
                binary_column(lists.indptr, lists.entries),
            ],
            names=names_of(LISTS_SCHEMA),
        )
        first = last


def names_of(schema: str) -> list[str]:
    """Column names of a Spark schema of flat columns."""
    return [column.split()[0] for column in schema.split(", ")]


def bounds_of(key: NDArray[Any]) -> NDArray[Any]:
    """int64[groups + 1], bounds of runs of equal keys."""
    starts = np.flatnonzero(key[1:] != key[:-1]) + 1
    return np.concatenate([[0], starts, [len(key)]]).astype(np.int64)


def binary_column(indptr: NDArray[Any], values: NDArray[Any]) -> pa.Array:
    """Rows of ``values`` as one binary value each; no copy.

    Raises:
        ValueError: they are 2 GB or more together.
    """
    import pyarrow as pa

    offsets = indptr * (values.nbytes // max(len(values), 1))
    if offsets[-1] >= 2**31:
        raise ValueError(f"{offsets[-1]:,} bytes of lists in one batch; lower the caps of users")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.binary(), len(indptr) - 1, buffers)


def read_binary(array: pa.Array, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(indptr, values) of a binary column; values are a view of the array's memory."""
    _, offsets_buffer, data = array.buffers()
    stop = array.offset + len(array) + 1
    offsets = np.frombuffer(offsets_buffer, np.int32)[array.offset : stop].astype(np.int64)
    offsets //= dtype.itemsize
    first, last = int(offsets[0]), int(offsets[-1])
    if first == last:
        return offsets - first, np.empty(0, dtype)
    return offsets - first, np.frombuffer(data, dtype, count=last)[first:]
