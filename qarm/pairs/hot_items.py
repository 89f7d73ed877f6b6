"""Items whose users' lists would fill a block by themselves: each block gets some of their users.

Each block adds up what its users contribute to a pair, in integers, and the partial sums are added
up after a shuffle: the same sums, to the last bit, as in one block with all users. Counts of pairs
are shuffled here, but only those of the few crowded items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.pairs.blocks import (
    BLOCK_ENTRIES,
    Prepare,
    Routing,
    counts_batch,
    mined_batch,
    score_block,
    ship_to_blocks,
)
from qarm.pairs.lists import names_of
from qarm.pairs.mined import PAIR_COLUMNS, ROW_SCHEMA

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: Most entries that the users of one item may bring to a block.
CROWDED_ENTRIES = BLOCK_ENTRIES
#: Rows that a task buffers before it drops those beyond the top k.
_HELD_ROWS = 1 << 20

_SUMS_SCHEMA = "trigger bigint, target bigint, units bigint, support bigint, last_ts bigint"

Columns = tuple[NDArray[Any], ...]
#: trigger, target and units of pairs, int64[n] each -> score and weight, float64[n] each.
Normalise = Callable[
    [NDArray[Any], NDArray[Any], NDArray[Any]],
    tuple[NDArray[Any], NDArray[Any]],
]


def crowded_items(items: DataFrame, nearest: int) -> NDArray[Any]:
    """int64[h], ascending: items whose users alone fill a block (``CROWDED_ENTRIES``).

    Args:
        items: item_idx and near, the entries that go to a block with those of the item.
        nearest: the largest ``near``.
    """
    from pyspark.sql import functions as F

    if nearest <= CROWDED_ENTRIES:
        return np.empty(0, np.int64)

    crowded = items.where(F.col("near") > CROWDED_ENTRIES)
    return np.sort(crowded.select("item_idx").toArrow().column(0).to_numpy())


def shard_users(lists: DataFrame, crowded: NDArray[Any], entries: int, reach: int) -> Routing:
    """The routing of ``crowded`` items (int64[h]): users spread over one block per core, or over
    more if the lists have many ``entries`` in total.
    """
    cores = lists.sparkSession.sparkContext.defaultParallelism
    shards = max(cores, -(-entries // CROWDED_ENTRIES))
    return Routing(shards, reach, wanted=crowded, by_user=True)


def score_in_shards(
    lists: DataFrame,
    routing: Routing,
    prepare: Prepare,
    normalise: Normalise,
    min_support: int,
    top_k: int,
) -> DataFrame:
    """Score ``routing.wanted``, whose users are spread over the blocks; rows as in ``ROW_SCHEMA``.

    Args:
        lists: see ``blocks.ship_to_blocks``.
        routing: as of ``shard_users``.
        prepare: makes the kernel call of a block, which returns the sums of all pairs; see
            ``stream_sums``.
        normalise: makes scores of sums; runs on executors.
        min_support: fewest users of a pair.
        top_k: pairs kept per trigger.
    """
    from pyspark.sql import functions as F

    sums = ship_to_blocks(lists, routing).mapInArrow(
        partial(stream_sums, prepare=prepare), _SUMS_SCHEMA
    )
    pairs = sums.groupBy("trigger", "target").agg(
        F.sum("units").alias("units"),
        F.sum("support").alias("support"),
        F.max("last_ts").alias("last_ts"),
    )
    scored = pairs.mapInArrow(
        partial(stream_scores, normalise=normalise, min_support=min_support, top_k=top_k),
        ROW_SCHEMA,
    )
    # Each task kept its own top k; the rest of a trigger now meets in one task. Counts travel
    # along, so that no task runs twice.
    return scored.repartition("trigger").mapInArrow(partial(stream_best, top_k=top_k), ROW_SCHEMA)


def stream_sums(batches: Iterable[pa.RecordBatch], prepare: Prepare) -> Iterator[pa.RecordBatch]:
    """Slices of one block -> rows of ``_SUMS_SCHEMA``: what its users add to each pair."""
    import pyarrow as pa

    for trigger, target, _, support, units, last_ts in score_block(
        batches, prepare, np.zeros(3, np.int64)
    ):
        columns = [pa.array(c) for c in (trigger, target, units, support, last_ts)]
        yield pa.record_batch(columns, names=names_of(_SUMS_SCHEMA))


def stream_scores(
    batches: Iterable[pa.RecordBatch], normalise: Normalise, min_support: int, top_k: int
) -> Iterator[pa.RecordBatch]:
    """Whole sums -> pairs with enough support, at most ``top_k`` per trigger, and counts."""
    tally = np.zeros(3, np.int64)

    def supported() -> Iterator[Columns]:
        for batch in batches:
            trigger, target, units, support, last_ts = (c.to_numpy() for c in batch.columns)
            score, weight = normalise(trigger, target, units)
            enough = support >= min_support
            tally[:2] += len(enough), len(enough) - enough.sum()
            yield tuple(c[enough] for c in (trigger, target, score, support, weight, last_ts))

    yield from _best(supported(), top_k, tally)


def stream_best(batches: Iterable[pa.RecordBatch], top_k: int) -> Iterator[pa.RecordBatch]:
    """Rows of ``ROW_SCHEMA``, all rows of a trigger -> its ``top_k`` best, and counts."""
    import pyarrow.compute as pc

    tally = np.zeros(3, np.int64)

    def pairs() -> Iterator[Columns]:
        for batch in batches:
            is_pair = pc.is_null(batch.column("counts"))
            for counts in batch.filter(pc.invert(is_pair)).column("counts").to_pylist():
                tally[:] += counts
            found = batch.filter(is_pair)
            yield tuple(found.column(name).to_numpy() for name in PAIR_COLUMNS)

    yield from _best(pairs(), top_k, tally)


def _best(pieces: Iterator[Columns], top_k: int, tally: NDArray[Any]) -> Iterator[pa.RecordBatch]:
    """The ``top_k`` pairs of each trigger (ties: the smaller target), and counts."""
    held: list[Columns] = []
    rows, limit = 0, _HELD_ROWS
    for piece in pieces:
        held.append(piece)
        rows += len(piece[0])
        if rows >= limit:
            held = [_cut(held, top_k, tally)]
            rows = len(held[0][0])
            limit = max(_HELD_ROWS, 2 * rows)
    if held:
        yield mined_batch(_cut(held, top_k, tally))
    yield counts_batch(tally)


def _cut(held: list[Columns], top_k: int, tally: NDArray[Any]) -> Columns:
    columns = [np.concatenate(parts) for parts in zip(*held, strict=True)]
    trigger, target, score = columns[:3]
    order = np.lexsort((target, -score, trigger))
    in_order = trigger[order]
    place = np.arange(len(order)) - np.searchsorted(in_order, in_order)
    kept = order[place < top_k]
    tally[2] += len(order) - len(kept)
    return tuple(column[kept] for column in columns)
