"""Users' lists, shipped once to each block of items that needs them.

A block is the set of items with ``item_idx mod blocks = block``. Whoever scores a block holds, in
memory, the (capped) lists of all users with an item in it, so it can score its triggers completely,
take their top k, and forget. Lists travel as binary: packed arrays of a NumPy record type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qarm.pairs.mined import ROW_SCHEMA

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame, SparkSession

#: Entries that a block should hold at most: about 150 MB of records, codes and indices.
BLOCK_ENTRIES = 1 << 21
#: Blocks a core, so that an unlucky block does not keep the others waiting.
_BLOCKS_A_CORE = 4
#: Entries written at once; keeps each Arrow batch far below 2 GB.
_WRITE_ENTRIES = 1 << 20
#: Fewest output rows of one call of a kernel.
_CALL_ROWS = 1 << 16

Fields = Sequence[tuple[str, str]]
"""Columns of an entry and their NumPy types; ``item_idx`` is one of them."""


class Block(NamedTuple):
    """The lists of one block."""

    number: int
    indptr: np.ndarray
    """int64[users + 1], bounds of each user's entries; users ascending."""
    entries: np.ndarray
    """Records, each user's in its order."""


class Index(NamedTuple):
    """A block's triggers by item, in the layout that the kernels take."""

    items: np.ndarray
    """int64[codes], the items, ascending: the item of code c."""
    code: np.ndarray
    """int64[entries]"""
    entry_user: np.ndarray
    """int64[entries], row of the user."""
    trigger: np.ndarray
    """int64[t], codes of the triggers, ascending."""
    trigger_indptr: np.ndarray
    """int64[t + 1]"""
    trigger_entry: np.ndarray
    """int64[...], the entries of each trigger, in the users' order."""


Scored = tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
#: (first trigger, capacity, tally) -> what a kernel returns.
Call = Callable[[int, int, np.ndarray], Scored]
#: Arrays of a block -> its index and its kernel call.
Prepare = Callable[[Block], tuple[Index, Call]]


def count_blocks(spark: SparkSession, entries: int, shipped: int) -> int:
    """Blocks to cut the items into; results do not depend on it.

    Args:
        spark: the session; its default parallelism is the number of cores.
        entries: entries of all lists: the most that one block can hold.
        shipped: entries shipped if each item were a block of its own.
    """
    blocks = _BLOCKS_A_CORE * spark.sparkContext.defaultParallelism
    if entries > BLOCK_ENTRIES:
        blocks = max(blocks, -(-shipped // BLOCK_ENTRIES))
    return blocks


def score_in_blocks(
    lists: DataFrame,
    order: Sequence[str | Column],
    fields: Fields,
    reach: int,
    prepare: Prepare,
) -> DataFrame:
    """Ship ``lists`` to their blocks and score each block; rows as in ``ROW_SCHEMA``.

    Args:
        lists: one row an entry: user_idx, block (-1: the user does not count for the item), and the
            columns of ``fields``. No user has more rows than its cap.
        order: the order within a user.
        fields: what an entry carries.
        reach: neighbours on either side that a block needs beside its own entries.
        prepare: makes the kernel call of a block; runs on executors.
    """
    slices = (
        lists.repartition("user_idx")
        .sortWithinPartitions("user_idx", *order)
        .select("user_idx", "block", *(name for name, _ in fields))
        .mapInArrow(
            partial(cut_lists, fields=fields, reach=reach),
            "block bigint, user_idx bigint, entries binary",
        )
    )
    return (
        slices.repartition("block")
        .sortWithinPartitions("block", "user_idx")
        .mapInArrow(partial(score_slices, fields=fields, prepare=prepare), ROW_SCHEMA)
    )


def record_type(fields: Fields) -> np.dtype:
    """The packed record of an entry."""
    return np.dtype(list(fields))


def whole_groups(
    batches: Iterable[pa.RecordBatch], key: str
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Columns of batches sorted by ``key``, cut so that no group is torn apart.

    Yields bounds int64[groups + 1] and the columns. Only the last group of a batch is carried over,
    so groups must be capped where they could be large.
    """
    carried: dict[str, np.ndarray] = {}
    for batch in batches:
        columns = {
            name: batch.column(k).to_numpy(zero_copy_only=False)
            for k, name in enumerate(batch.schema.names)
        }
        if not batch.num_rows:
            continue
        if carried:
            columns = {n: np.concatenate([carried[n], c]) for n, c in columns.items()}
        last = int(np.searchsorted(columns[key], columns[key][-1]))
        carried = {n: c[last:] for n, c in columns.items()}
        if last:
            done = {n: c[:last] for n, c in columns.items()}
            yield _bounds(done[key]), done
    if carried:
        yield _bounds(carried[key]), carried


def _bounds(key: np.ndarray) -> np.ndarray:
    starts = np.flatnonzero(key[1:] != key[:-1]) + 1
    return np.concatenate([[0], starts, [len(key)]]).astype(np.int64)


def cut_lists(
    batches: Iterable[pa.RecordBatch], fields: Fields, reach: int
) -> Iterator[pa.RecordBatch]:
    """Entries sorted by user -> (block, user_idx, entries) slices."""
    import pyarrow as pa

    from qarm.pairs.blocks_kernel import slice_lists

    record = record_type(fields)
    for indptr, columns in whole_groups(batches, "user_idx"):
        entries = np.empty(indptr[-1], record)
        for name, _ in fields:
            entries[name] = columns[name]
        user, block, bounds, entry = slice_lists(indptr, columns["block"], reach)
        users = columns["user_idx"][indptr[user]]
        first = 0
        while first < len(block):
            last = int(np.searchsorted(bounds, bounds[first] + _WRITE_ENTRIES, "right")) - 1
            last = max(last, first + 1)
            packed = entries[entry[bounds[first] : bounds[last]]]
            offsets = (bounds[first : last + 1] - bounds[first]) * record.itemsize
            yield pa.record_batch(
                [
                    pa.array(block[first:last]),
                    pa.array(users[first:last]),
                    pa.Array.from_buffers(
                        pa.binary(),
                        last - first,
                        [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(packed)],
                    ),
                ],
                names=["block", "user_idx", "entries"],
            )
            first = last


def read_blocks(batches: Iterable[pa.RecordBatch], record: np.dtype) -> Iterator[Block]:
    """Slices sorted by (block, user) -> one block after the other."""
    number: int | None = None
    parts: list[tuple[np.ndarray, np.ndarray]] = []  # entries, length of each user's list

    def finish() -> Block:
        assert number is not None
        lengths = np.concatenate([length for _, length in parts])
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Block(number, indptr, np.concatenate([entries for entries, _ in parts]))

    for batch in batches:
        if not batch.num_rows:
            continue
        blocks = batch.column(0).to_numpy()
        array = batch.column(2)
        _, offsets_buffer, data = array.buffers()
        stop = array.offset + len(array) + 1
        offsets = np.frombuffer(offsets_buffer, np.int32)[array.offset : stop]
        offsets = offsets.astype(np.int64) // record.itemsize
        entries = np.frombuffer(data, record, count=offsets[-1])
        for begin, end in zip(bounds := _bounds(blocks), bounds[1:], strict=False):
            if number is not None and number != blocks[begin]:
                yield finish()
                parts = []
            number = int(blocks[begin])
            rows = entries[offsets[begin] : offsets[end]].copy()  # the batch's memory is reused
            parts.append((rows, np.diff(offsets[begin : end + 1])))
    if number is not None:
        yield finish()


def index_block(block: Block, own: np.ndarray) -> Index:
    """Dense codes for the block's items, and its triggers: the items of the entries in ``own``."""
    items, code = np.unique(block.entries["item_idx"], return_inverse=True)
    code = code.astype(np.int64)
    entry_user = np.repeat(np.arange(len(block.indptr) - 1), np.diff(block.indptr))
    rows = np.flatnonzero(own)
    rows = rows[np.argsort(code[rows], kind="stable")]
    trigger, starts = np.unique(code[rows], return_index=True)
    indptr = np.append(starts, len(rows)).astype(np.int64)
    return Index(items, code, entry_user, trigger, indptr, rows)


def score_block(
    index: Index, call: Call, tally: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Call a kernel until all triggers are scored; items in place of codes."""
    capacity = max(len(index.items), _CALL_ROWS)
    first = 0
    while first < len(index.trigger):
        first, trigger, target, *values = call(first, capacity, tally)
        yield index.items[trigger], index.items[target], *values


def score_slices(
    batches: Iterable[pa.RecordBatch], fields: Fields, prepare: Prepare
) -> Iterator[pa.RecordBatch]:
    """Slices sorted by (block, user) -> scored pairs, and a row of counts at the end."""
    tally = np.zeros(3, np.int64)
    for block in read_blocks(batches, record_type(fields)):
        index, call = prepare(block)
        for columns in score_block(index, call, tally):
            yield mined_batch(columns)
    yield counts_batch(tally)


def mined_batch(columns: Sequence[np.ndarray]) -> pa.RecordBatch:
    """Rows that are pairs, as in ``ROW_SCHEMA``."""
    import pyarrow as pa

    arrays = [pa.array(c) for c in columns]
    return pa.record_batch([*arrays, pa.nulls(len(columns[0]), pa.list_(pa.int64()))], names=_NAMES)


def counts_batch(counts: np.ndarray) -> pa.RecordBatch:
    """One row that carries counts, as in ``ROW_SCHEMA``."""
    import pyarrow as pa

    types = [pa.int64(), pa.int64(), pa.float64(), pa.int64(), pa.float64(), pa.int64()]
    arrays = [*(pa.nulls(1, t) for t in types), pa.array([counts.tolist()], pa.list_(pa.int64()))]
    return pa.record_batch(arrays, names=_NAMES)


_NAMES = [column.split()[0] for column in ROW_SCHEMA.split(", ")]
