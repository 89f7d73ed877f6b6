"""Pools of anchors: the items that VQ codes refer to.

The rule is not published (QARM, arXiv 2411.11739, section 3, speaks of a pool); ours are

* ``popular``: the items with most events in training: anchors whose own embeddings learn most;
* ``random``: the smallest hash(item, seed): anchors as dense as the catalogue is;
* ``k_centre``: each next anchor is the item farthest from those chosen (Gonzalez, 1985). No item is
  farther from its nearest anchor than twice the least that any pool of that size can reach, but
  the pool is rich in outliers.

`qarm anchor-pools` (``compare_pools``) measures them on the vectors of a lake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qarm import progress
from qarm.codes.codebook import lists_to_matrix
from qarm.codes.sampling import hash_of, sample_by_hash
from qarm.config.codes import Codes
from qarm.errors import InputError
from qarm.kernels.farthest import choose_farthest
from qarm.kernels.nearest import Floats, as_matrix

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Rule = Literal["popular", "random", "k_centre"]

K_CENTRE_ROWS = 65_536
"""k-centre reads at most this many items, or four per anchor: its cost is items times anchors."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Anchors, numbered in the order of the rule."""

    items: NDArray[np.int64]
    """(N,) item_idx."""
    vectors: Floats
    """(N, d)."""
    rule: Rule
    """The rule that was followed."""


def choose_pool(
    usable: DataFrame, rows: int, events: DataFrame | None, config: Codes, rule: Rule | None = None
) -> Pool:
    """The pool of anchors that the settings ask for; at most ``rows`` anchors.

    ``popular`` breaks ties by hash; without events it becomes ``random``.

    Args:
        usable: (item_id, item_idx, vector), see ``population.usable_vectors``.
        rows: number of ``usable``.
        events: (item_idx, events) of the training part; None: there is no log.
        config: section [codes].
        rule: in place of ``config.vq_pool``.

    Raises:
        InputError: fewer items than a VQ code is long.
    """
    rule = rule or config.vq_pool
    if rule == "popular" and events is None:
        progress.say("no events, so anchors are drawn at random by hash")
        rule = "random"
    wanted = config.vq_anchors
    if rows < config.vq_k:
        raise InputError(
            f"codes.vq_k = {config.vq_k} needs as many anchors, but only {rows} items are in the "
            "training part and have content; lower codes.vq_k"
        )
    if rows < wanted:
        progress.say(f"{rows} anchors in place of {wanted}: there are no more items")
    if rule == "k_centre":
        items, vectors = sample_by_hash(usable, rows, max(K_CENTRE_ROWS, 4 * wanted), config.seed)
        chosen = farthest_first(vectors, min(wanted, len(vectors)))
        return Pool(items[chosen], vectors[chosen], rule)
    ordered = _in_order(usable, events if rule == "popular" else None, config.seed)
    table = ordered.limit(wanted).select("item_idx", "vector").toArrow()
    vectors = lists_to_matrix(table["vector"], "item_embeddings")
    return Pool(table["item_idx"].to_numpy().astype(np.int64), vectors, rule)


def _in_order(usable: DataFrame, events: DataFrame | None, seed: int) -> DataFrame:
    """By events, most first, then by hash; without events by hash alone."""
    from pyspark.sql import functions as F

    if events is None:
        return usable.orderBy(hash_of(seed), "item_idx")
    counted = usable.join(events, "item_idx", "left").fillna(0, "events")
    return counted.orderBy(F.desc("events"), hash_of(seed), "item_idx")


def farthest_first(x: NDArray[np.floating[Any]], k: int) -> NDArray[np.int64]:
    """Rows of k points: the first, then each time the point farthest from all chosen.

    Ties go to the first such row. Gonzalez (1985): at most twice the least radius of any k centres.
    Where fewer than k points are distinct, the remaining places go to the first rows left.

    Raises:
        InputError: fewer than k points, or NaN or infinity.
    """
    points = as_matrix(x, "points")
    if not 1 <= k <= len(points):
        raise InputError(f"k-centre: need >= {k} points and k >= 1, got {len(points)} points")
    chosen: NDArray[np.int64] = choose_farthest(points, k)
    return chosen
