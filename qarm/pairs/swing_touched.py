"""Swing item by item: a run scores the items whose users' lists have changed, and no others.

A trigger's pairs depend on the lists of the users that it keeps: their items, weights, times, and
which of their items keep them. Each item has a fingerprint of exactly that, so an item whose
fingerprint is the one of the run before has the pairs of the run before, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qarm.lake.latest import latest, publish_again
from qarm.pairs.lists import RECORD, WORDS, read_binary
from qarm.pairs.mined import Keep, Mined
from qarm.pairs.swing import UserLists, list_users, score_lists
from schemas import swing_items, swing_scored

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from qarm.config.pairs import Swing
    from qarm.pipeline.context import Context


class Touched(NamedTuple):
    """What a run scored."""

    pairs: DataFrame
    """All pairs, those kept among them."""
    tally: dict[str, int]
    """Of the items scored."""
    kept_pairs: int
    """Pairs of the items left alone."""
    items: int
    """Items scored."""
    users: UserLists


def fingerprint_items(users: UserLists) -> DataFrame:
    """(item_idx, fingerprint): XOR over the users an item keeps of the hashes of their lists."""
    from pyspark.sql import functions as F

    stream = partial(
        stream_fingerprints, hot_item=users.hot_item, hot_threshold=users.hot_threshold
    )
    rows = users.lists.select("user_idx", "user_hash", "entries").mapInArrow(
        stream, "item_idx bigint, mark bigint"
    )
    return rows.groupBy("item_idx").agg(F.expr("bit_xor(mark)").alias("fingerprint"))


def stream_fingerprints(
    batches: Iterable[pa.RecordBatch], hot_item: np.ndarray, hot_threshold: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """(user_idx, user_hash, list) -> (item, hash of the user and its list) of each item that keeps
    the user."""
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
        mark = hash_lists(indptr, words, sampled, user)
        yield pa.record_batch(
            [pa.array(entries["item"][sampled].astype(np.int64)), pa.array(mark[sampled])],
            names=["item_idx", "mark"],
        )


def score_touched(
    context: Context, events: DataFrame, config: Swing, seed: int, scored_with: str, keep: Keep
) -> Touched:
    """Bring swing_scored up to date.

    Args:
        context: of the stage; writes swing_scored and swing_items.
        events: all mined events.
        config, seed: as for ``swing``.
        scored_with: hash of the settings and code.
        keep: keeps frames that are read more than once.
    """
    from pyspark.sql import functions as F

    users = list_users(events, config, seed, keep)
    before = keep(latest(context.lake, swing_items.TABLE))
    scored = latest(context.lake, swing_scored.TABLE)
    now = keep(fingerprint_items(users).withColumn("scored_with", F.lit(scored_with)))
    touched = keep(now.join(before, list(now.columns), "left_anti").select("item_idx"))
    gone = before.join(now, "item_idx", "left_anti").select("item_idx")
    wanted = np.sort(touched.toArrow().column(0).to_numpy())  # at most one number an item
    leaving = keep(touched.union(gone).withColumnRenamed("item_idx", "trigger"))
    kept_pairs = scored.join(leaving, "trigger", "left_anti").count()
    if leaving.isEmpty():
        publish_again(context, swing_scored.TABLE, swing_items.TABLE)
        pairs = context.table(swing_scored.TABLE.name)
        return Touched(pairs, {"scored": 0}, kept_pairs, 0, users)
    mined = score_lists(users, config, wanted) if len(wanted) else None
    rows = Mined(rows=keep(mined.rows), names=mined.names) if mined else None
    new = rows.pairs if rows else scored.limit(0)
    tally = rows.tally() if rows else {"scored": 0}
    old = scored.join(leaving, "trigger").select("trigger", "target")
    values = ("score", "support", "weight", "last_ts")
    context.merge(
        swing_scored.TABLE,
        new,
        update_when=" OR ".join(f"s.{name} <> t.{name}" for name in values),
        leave=old.join(new, ["trigger", "target"], "left_anti"),
    )
    context.merge(
        swing_items.TABLE,
        now,
        update_when="s.fingerprint <> t.fingerprint OR s.scored_with <> t.scored_with",
        leave=gone,
    )
    return Touched(context.table(swing_scored.TABLE.name), tally, kept_pairs, len(wanted), users)
