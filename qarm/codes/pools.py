"""Pools of anchors: which items VQ codes are made of.

The rule is not published (QARM, arXiv 2411.11739, section 3, speaks of a pool); ours are

* ``popular``: the items with most events in training: anchors whose own embeddings learn most;
* ``random``: the smallest hash(item, seed): anchors as dense as the catalogue is;
* ``k_centre``: each next anchor is the item farthest from those chosen (Gonzalez, 1985): no item is
  farther from its nearest anchor than twice the least that any pool of that size can reach, but
  the pool is rich in outliers.

`qarm anchor-pools` (``compare_pools``) measures them on the vectors of a lake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import lists_to_matrix
from qarm.codes.sampling import hash_of, sample_by_hash
from qarm.errors import InputError
from qarm.ingest.parts import training_parts
from qarm.kernels.microkernel import MOST
from qarm.kernels.nearest import Floats, as_matrix
from qarm.kernels.threads import REORDERED, kernel

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

Rule = Literal["popular", "random", "k_centre"]

K_CENTRE_ROWS = 65_536
"""k-centre looks at no more items than this, or four an anchor: its cost is items times anchors."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Anchors, numbered in the order of the rule."""

    items: NDArray[np.int64]
    """(N,) item_idx."""
    vectors: Floats
    """(N, d)."""
    rule: Rule
    """The rule that was followed."""


def choose_anchors(context: Context, usable: DataFrame, rows: int) -> Pool:
    """The pool that the configuration asks for, of ``usable`` (item_id, item_idx, vector).

    ``popular``: ties by hash; without events, ``random``. At most ``rows``, the number of items.

    Raises:
        InputError: fewer items than a VQ code is long.
    """
    config = context.config.codes
    if config.vq_pool == "popular" and context.find("event_splits") is None:
        context.say("no events, so anchors are drawn at random by hash")
        return choose_by(context, usable, rows, "random")
    return choose_by(context, usable, rows, config.vq_pool)


def choose_by(context: Context, usable: DataFrame, rows: int, rule: Rule) -> Pool:
    """The pool of rule ``rule``; see ``choose_anchors``."""
    config = context.config.codes
    wanted = config.vq_anchors
    if rows < config.vq_k:
        raise InputError(
            f"codes.vq_k = {config.vq_k} needs as many anchors, but only {rows} items are in the "
            "training part and have content; lower codes.vq_k"
        )
    if rows < wanted:
        context.say(f"{rows} anchors: no more items ({wanted} asked for)")
    if rule == "k_centre":
        items, vectors = sample_by_hash(usable, rows, max(K_CENTRE_ROWS, 4 * wanted), config.seed)
        chosen = farthest_first(vectors, min(wanted, len(vectors)))
        return Pool(items[chosen], vectors[chosen], rule)
    ordered = _by_events(context, usable) if rule == "popular" else _by_hash(context, usable)
    table = ordered.limit(wanted).select("item_idx", "vector").toArrow()
    vectors = lists_to_matrix(table["vector"], "item_embeddings")
    return Pool(table["item_idx"].to_numpy().astype(np.int64), vectors, rule)


def _by_hash(context: Context, usable: DataFrame) -> DataFrame:
    return usable.orderBy(hash_of(context.config.codes.seed), "item_idx")


def _by_events(context: Context, usable: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    parts = training_parts(context.facts("ingest"))
    events = (
        context.table("event_splits")
        .where(F.col("part").isin(parts))
        .groupBy("item_idx")
        .agg(F.count("*").alias("events"))
    )
    counted = usable.join(events, "item_idx", "left").fillna(0, "events")
    return counted.orderBy(F.desc("events"), hash_of(context.config.codes.seed), "item_idx")


def farthest_first(x: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Rows of k points: the first, then each time the point farthest from all chosen (ties: the
    first such row). Gonzalez (1985); at most twice the least radius of any k centres.

    Where fewer than k points are distinct, the remaining places go to the first rows left.

    Raises:
        InputError: fewer than k points, or NaN or infinity.
    """
    points = as_matrix(x, "points")
    if not 1 <= k <= len(points):
        raise InputError(f"k-centre: need >= {k} points and k >= 1, got {len(points)} points")
    return _farthest_first(points, k)


@kernel(REORDERED)
def _farthest_first(points, k):  # type: ignore[no-untyped-def]
    n, d = points.shape
    chosen = np.empty(k, np.int64)
    closest = np.full(n, np.float32(MOST))
    current = 0
    for c in range(k):
        chosen[c] = current
        following, largest = 0, np.float32(-2)
        closest[current] = np.float32(-1)  # taken: behind every point that is not
        for i in range(n):
            if closest[i] < 0:
                continue
            distance = np.float32(0)
            for m in range(d):
                difference = points[i, m] - points[current, m]
                distance += difference * difference
            closest[i] = min(closest[i], distance)
            if closest[i] > largest:
                following, largest = i, closest[i]
        current = following
    return chosen
