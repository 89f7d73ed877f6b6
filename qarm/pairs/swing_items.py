"""Incremental Swing by item: a run scores only the items whose users' lists changed.

A trigger's pairs depend on the lists of the users that it keeps: their items, weights, times, and
which of their items keep them. The fingerprint of an item covers exactly that, so an item with the
same fingerprint has the same pairs, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.pairs import scratch
from qarm.pairs.lists import RECORD, WORDS, read_binary
from qarm.pairs.mined import Keep, Mined
from qarm.pairs.nightly import Miner, Night, Recounted, Scratch, update
from qarm.pairs.swing import UserLists, list_users, score_lists

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from qarm.config.pairs import Swing

MINER = Miner(name="swing", key=("trigger",), tables=(scratch.SWING,))


def fingerprint_items(users: UserLists, mark: str) -> DataFrame:
    """(trigger, fingerprint): XOR of the hashes of the lists of the users that an item keeps.

    ``mark``: hash of the settings and the code.
    """
    from pyspark.sql import functions as F

    stream = partial(
        stream_fingerprints, hot_item=users.hot_item, hot_threshold=users.hot_threshold
    )
    rows = users.lists.select("user_idx", "user_hash", "entries").mapInArrow(
        stream, "trigger bigint, hash bigint"
    )
    lists = F.expr("bit_xor(hash)")
    return rows.groupBy("trigger").agg(F.xxhash64(F.lit(mark), lists).alias("fingerprint"))


def stream_fingerprints(
    batches: Iterable[pa.RecordBatch],
    hot_item: NDArray[Any],
    hot_threshold: NDArray[Any],
) -> Iterator[pa.RecordBatch]:
    """Spark task: (user_idx, user_hash, list) -> (item, hash of the user and its list) for each
    item that keeps the user.
    """
    import pyarrow as pa

    from qarm.kernels.block_lists import choose_blocks, hash_lists

    nothing = np.empty(0, np.int64)
    for batch in batches:
        user, user_hash = batch.column(0).to_numpy(), batch.column(1).to_numpy()
        indptr, entries = read_binary(batch.column(2), RECORD)
        words = entries.view(np.int64).reshape(-1, WORDS)
        _, sampled = choose_blocks(
            indptr, words, user_hash, hot_item, hot_threshold, nothing, nothing, nothing, 1
        )
        hashes = hash_lists(indptr, words, sampled, user)
        yield pa.record_batch(
            [pa.array(entries["item"][sampled].astype(np.int64)), pa.array(hashes[sampled])],
            names=["trigger", "hash"],
        )


def score_changed(
    where: Scratch, events: DataFrame, config: Swing, seed: int, keep: Keep
) -> tuple[Night, dict[str, Any]]:
    """Bring the table of Swing pairs up to date; also returns facts about skew.

    Args:
        where: the scratch tables.
        events: all mined events.
        config, seed: as for ``swing``.
        keep: keeps frames that are read more than once.
    """
    users = list_users(events, config, seed, keep)

    def recount(changed: DataFrame) -> Recounted:
        wanted = np.sort(changed.toArrow().column(0).to_numpy())  # at most one number per item
        mined = score_lists(users, config, wanted)
        mined = Mined(rows=keep(mined.rows), names=mined.names)
        return Recounted((mined.pairs,), mined.tally())

    mark = where.mark(settings=config.model_dump(mode="json"), seed=seed)
    night = update(where, MINER, fingerprint_items(users, mark), recount, keep)
    return night, users.skew
