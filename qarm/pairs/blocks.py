"""Users' lists, shipped to each block of items that needs them, and scored there.

A block is the set of items with ``item_idx mod blocks = block``, processed by one task. It holds
the capped lists of all users with an item in it in memory, so it can score its triggers completely
and keep only their top k. Lists are shuffled, never counts of pairs, except for the few items whose
users' lists fill a block by themselves (``qarm.pairs.hot_items``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qarm.pairs.keys import partition_keys
from qarm.pairs.lists import RECORD, WORDS, binary_column, names_of, read_binary
from qarm.pairs.mined import ROW_SCHEMA

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: Most entries that a block should hold: 1.1 GB at the peak of building it, 66 bytes per entry.
BLOCK_ENTRIES = 1 << 24
#: Blocks per core if memory allows: every additional one ships the lists once more.
_BLOCKS_PER_CORE = 1
#: Entries per Arrow batch; keeps batches far below 2 GB.
_WRITE_ENTRIES = 1 << 20
#: Fewest output rows of one call of a kernel.
_CALL_ROWS = 1 << 17
#: Items are numbered by a table up to this many times the entries, else by sorting.
_SPARSE = 16

_EMPTY = np.empty(0, np.int64)
_SLICES_SCHEMA = "key bigint, users binary, lengths binary, entries binary"


class Routing(NamedTuple):
    """Which block scores which items."""

    blocks: int
    reach: int
    """Neighbours on either side of its own entries that a block needs."""
    hot_item: NDArray[Any] = _EMPTY
    """int64[h], ascending: items that keep a sample of their users only."""
    hot_threshold: NDArray[Any] = _EMPTY
    """int64[h], the largest user hash that each of them keeps."""
    wanted: NDArray[Any] = _EMPTY
    """int64[w], ascending: items to score; empty: all."""
    left_out: NDArray[Any] = _EMPTY
    """int64[l], ascending: items not to score."""
    by_user: bool = False
    """Spread users, not items, over the blocks, so that each block has some of an item's users."""


class Block(NamedTuple):
    """The lists of one block, and its triggers by item, in the layout that kernels take."""

    items: NDArray[Any]
    """int64[codes], ascending: the item of each code."""
    code: NDArray[Any]
    """int32[entries]"""
    position: NDArray[Any]
    """int32[entries], place in the user's whole list."""
    sampled: NDArray[Any]
    """bool[entries], whether the user counts for the item."""
    ts: NDArray[Any]
    """int64[entries]"""
    weight: NDArray[Any]
    """float64[entries]"""
    indptr: NDArray[Any]
    """int64[users + 1], bounds of each user's entries."""
    trigger: NDArray[Any]
    """int64[t], codes of the triggers, ascending."""
    trigger_indptr: NDArray[Any]
    """int64[t + 1]"""
    trigger_entry: NDArray[Any]
    """int64[...], the entries of each trigger, in the order of users."""
    trigger_user: NDArray[Any]
    """int64[...], the rows of their users."""


Scored = tuple[
    int,
    NDArray[Any],
    NDArray[Any],
    NDArray[Any],
    NDArray[Any],
    NDArray[Any],
    NDArray[Any],
]
#: (first trigger, capacity, tally) -> what a kernel returns.
Call = Callable[[int, int, NDArray[Any]], Scored]
#: A block -> its kernel call.
Prepare = Callable[[Block], Call]


def count_blocks(
    lists: DataFrame, entries: int, reach: int, block_entries: int = BLOCK_ENTRIES
) -> int:
    """Number of blocks: one per core, or more if a block would hold too many entries.

    A list of n entries goes to a block with probability 1 - (1 - 1/blocks)^n, because items are
    spread at random. Results do not depend on the number of blocks. A block always holds the lists
    of all users of each of its items, so more blocks do not help against a single large item.

    Args:
        lists: rows of ``lists.LISTS_SCHEMA``.
        entries: entries of all lists.
        reach: see ``Routing``.
        block_entries: most entries that a block should hold.
    """
    from pyspark.sql import functions as F

    blocks = _BLOCKS_PER_CORE * lists.sparkSession.sparkContext.defaultParallelism
    if entries <= block_entries:
        return blocks
    size = (F.length("entries") / F.lit(RECORD.itemsize)).cast("bigint").alias("n")
    rows = lists.groupBy(size).count().collect()  # one row per length; the cap limits them
    lengths = np.array([row["n"] for row in rows], np.float64)
    users = np.array([row["count"] for row in rows], np.float64)

    def held(blocks: int) -> float:
        own = lengths / blocks * (2 * reach + 1)
        whole = lengths * -np.expm1(lengths * np.log1p(-1.0 / blocks)) if blocks > 1 else lengths
        return float((users * np.minimum(own, whole)).sum())

    while held(blocks) > block_entries and blocks < entries:
        blocks *= 2
    return blocks


def score_in_blocks(lists: DataFrame, routing: Routing, prepare: Prepare) -> DataFrame:
    """Ship ``lists`` to their blocks and score each block; rows as in ``ROW_SCHEMA``.

    Args:
        lists, routing: see ``ship_to_blocks``.
        prepare: makes the kernel call of a block; runs on executors.
    """
    shipped = ship_to_blocks(lists, routing)
    return shipped.mapInArrow(partial(score_slices, prepare=prepare), ROW_SCHEMA)


def ship_to_blocks(lists: DataFrame, routing: Routing) -> DataFrame:
    """What each block needs, one partition per block: rows that ``read_block`` takes.

    Args:
        lists: rows of ``lists.LISTS_SCHEMA``, and user_hash (bigint) if items are hot; cut to
            the cap of users.
        routing: which block scores what.
    """
    from pyspark.sql import functions as F

    if "user_hash" not in lists.columns:
        lists = lists.withColumn("user_hash", F.lit(0).cast("bigint"))
    keys = partition_keys(lists.sparkSession, routing.blocks)
    slices = lists.select("user_idx", "user_hash", "entries").mapInArrow(
        partial(cut_lists, routing=routing, keys=keys), _SLICES_SCHEMA
    )
    return slices.repartition(routing.blocks, "key")


def cut_lists(
    batches: Iterable[pa.RecordBatch], routing: Routing, keys: NDArray[Any]
) -> Iterator[pa.RecordBatch]:
    """(user_idx, user_hash, list) -> rows of ``_SLICES_SCHEMA``, each with several users."""
    import pyarrow as pa

    from qarm.kernels.block_lists import choose_blocks, cut_to_blocks
    from qarm.pairs.lists import spread

    for batch in batches:
        user_idx, user_hash = batch.column(0).to_numpy(), batch.column(1).to_numpy()
        indptr, entries = read_binary(batch.column(2), RECORD)
        words = entries.view(np.int64).reshape(-1, WORDS)
        block, sampled = choose_blocks(
            indptr,
            words,
            user_hash,
            routing.hot_item,
            routing.hot_threshold,
            routing.wanted,
            routing.left_out,
            spread(user_idx, routing.blocks) if routing.by_user else _EMPTY,
            routing.blocks,
        )
        slice_at, user, length, out = cut_to_blocks(
            indptr, words, block, sampled, routing.reach, routing.blocks
        )
        users = user_idx[user]
        # One row per block, or more if it has many entries.
        ends = np.cumsum(length)
        cuts = np.flatnonzero(np.diff((ends - 1) // _WRITE_ENTRIES)) + 1
        bounds = np.unique(np.concatenate([slice_at, cuts]))
        if bounds[-1] == 0:
            continue
        of_row = np.searchsorted(slice_at, bounds[:-1], "right") - 1
        entry_bounds = np.concatenate([[0], ends])[bounds]
        for first in range(0, len(of_row), 64):
            rows = slice(first, first + 64)
            last = min(first + 64, len(of_row))
            some = bounds[first : last + 1]
            at = entry_bounds[first : last + 1]
            yield pa.record_batch(
                [
                    pa.array(keys[of_row[rows]]),
                    binary_column(some - some[0], users[some[0] : some[-1]]),
                    binary_column(some - some[0], length[some[0] : some[-1]]),
                    binary_column(at - at[0], out[at[0] : at[-1]]),
                ],
                names=names_of(_SLICES_SCHEMA),
            )


def read_block(batches: Iterable[pa.RecordBatch]) -> Block | None:
    """All slices of one block -> the block, its triggers' entries by user; None: no slices."""
    from qarm.kernels.block_lists import SAMPLED, code_items, index_triggers

    held: list[tuple[NDArray[Any], ...]] = []
    for batch in batches:
        types = (np.dtype(np.int64), np.dtype(np.int64), RECORD)
        columns = (read_binary(batch.column(k + 1), dtype)[1] for k, dtype in enumerate(types))
        held.append(tuple(column.copy() for column in columns))  # the memory is reused
    if not held or not any(len(entries) for _, _, entries in held):
        return None
    users, lengths = (np.concatenate([part[k] for part in held]) for k in range(2))
    entries = np.concatenate([part[2] for part in held])
    held.clear()
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    words = entries.view(np.int64).reshape(-1, WORDS)
    largest = int(entries["item"].max())
    if largest <= _SPARSE * len(entries):
        items, code = code_items(words, largest)
    else:
        items, code = np.unique(entries["item"], return_inverse=True)
        items, code = items.astype(np.int64), code.astype(np.int32)
    triggers = index_triggers(indptr, words, code, len(items), np.argsort(users))
    return Block(
        items,
        code,
        entries["mark"] & (SAMPLED - 1),
        (entries["mark"] & SAMPLED) > 0,
        np.ascontiguousarray(entries["ts"]),
        np.ascontiguousarray(entries["weight"]),
        indptr,
        *triggers,
    )


def score_slices(batches: Iterable[pa.RecordBatch], prepare: Prepare) -> Iterator[pa.RecordBatch]:
    """Slices of one block -> scored pairs, and one row of counts at the end."""
    tally = np.zeros(3, np.int64)
    for columns in score_block(batches, prepare, tally):
        yield mined_batch(columns)
    yield counts_batch(tally)


def score_block(
    batches: Iterable[pa.RecordBatch], prepare: Prepare, tally: NDArray[Any]
) -> Iterator[tuple[NDArray[Any], ...]]:
    """Slices of one block -> items of trigger and target, and the kernel's values, call by call.

    ``tally``: int64[3], counts that the kernel adds to.
    """
    block = read_block(batches)
    if block is None:
        return
    call = prepare(block)
    capacity = max(len(block.items), _CALL_ROWS)
    first = 0
    while first < len(block.trigger):
        first, trigger, target, *values = call(first, capacity, tally)
        yield block.items[trigger], block.items[target], *values


def mined_batch(columns: Sequence[NDArray[Any]]) -> pa.RecordBatch:
    """Rows that are pairs, as in ``ROW_SCHEMA``."""
    import pyarrow as pa

    arrays = [pa.array(c) for c in columns]
    return pa.record_batch([*arrays, pa.nulls(len(columns[0]), pa.list_(pa.int64()))], names=_NAMES)


def counts_batch(counts: NDArray[Any]) -> pa.RecordBatch:
    """One row that carries counts, as in ``ROW_SCHEMA``."""
    import pyarrow as pa

    types = [pa.int64(), pa.int64(), pa.float64(), pa.int64(), pa.float64(), pa.int64()]
    arrays = [*(pa.nulls(1, t) for t in types), pa.array([counts.tolist()], pa.list_(pa.int64()))]
    return pa.record_batch(arrays, names=_NAMES)


_NAMES = names_of(ROW_SCHEMA)
