"""Coverage of items by the anchors that each pool rule chooses (`qarm anchor-pools`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from qarm import progress
from qarm.codes.anchors import nearest_k
from qarm.codes.code_counts import usage
from qarm.codes.pools import Pool, Rule, choose_pool
from qarm.codes.sampling import sample_by_hash
from qarm.config.codes import Codes
from qarm.kernels.nearest import Floats

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ITEMS = 20_000
"""Maximum number of items, drawn by hash, that coverage is measured on."""


def compare_pools(
    usable: DataFrame, rows: int, events: DataFrame | None, config: Codes
) -> dict[str, Coverage]:
    """Coverage by each pool rule; ``popular`` is left out where there are no events.

    Args:
        usable, rows, events, config: see ``choose_pool``.

    Raises:
        InputError: no usable vectors, or fewer than a VQ code is long.
    """
    items, vectors = sample_by_hash(usable, rows, ITEMS, config.seed + 1)
    by_rule = {}
    for rule in get_args(Rule):
        if rule == "popular" and events is None:
            continue
        progress.say(f"pool {rule}")
        pool = choose_pool(usable, rows, events, config, rule)
        by_rule[rule] = coverage(vectors, items, pool, config.vq_k)
    return by_rule


@dataclass(frozen=True)
class Coverage:
    """How well a pool of anchors covers some items."""

    anchors: int
    nearest: float
    """Mean distance of an item to its nearest anchor other than itself."""
    farthest: float
    """Largest such distance."""
    code: float
    """Mean distance of an item to the K anchors of its code, itself left out."""
    first_used: float
    """Share of anchors that are the nearest one of some item other than themselves."""
    used: float
    """Share of anchors that are in the code of some item other than themselves."""
    entropy: float
    """Entropy over its maximum of how often anchors are in codes: 1 is even use."""


def coverage(vectors: Floats, items: NDArray[np.int64], pool: Pool, k: int) -> Coverage:
    """Coverage of ``items`` (m,) with ``vectors`` (m, d) by codes of length k.

    An item that is an anchor itself counts as if it were not one: a pool should not look good for
    being close to itself.
    """
    n = len(pool.items)
    ids = nearest_k(vectors, pool.vectors, min(k + 1, n))
    other = pool.items[ids] != items[:, None]
    # Leave out the item itself; in a row without it, the last anchor.
    other[other.all(axis=1) & (ids.shape[1] > k), -1] = False
    distances = np.empty(ids.shape)
    for rank in range(ids.shape[1]):  # rank by rank, so that memory is that of the vectors
        distances[:, rank] = np.linalg.norm(vectors - pool.vectors[ids[:, rank]], axis=1)
    first = other.argmax(axis=1)
    some = other.any(axis=1)
    nearest = distances[np.arange(len(ids)), first][some]
    figures = usage(np.bincount(ids[other], minlength=n))
    return Coverage(
        anchors=n,
        nearest=float(nearest.mean()),
        farthest=float(nearest.max()),
        code=float(distances[other].mean()),
        first_used=len(np.unique(ids[np.arange(len(ids)), first][some])) / n,
        used=figures.utilisation,
        entropy=figures.entropy,
    )


def table_of(by_rule: Mapping[str, Coverage]) -> str:
    """The comparison as lines of text."""
    heads = ("pool", "anchors", "nearest", "farthest", "code", "used first", "used", "entropy")
    rows = [
        (
            name,
            str(c.anchors),
            *(f"{v:.4f}" for v in (c.nearest, c.farthest, c.code)),
            *(f"{v:.3f}" for v in (c.first_used, c.used, c.entropy)),
        )
        for name, c in by_rule.items()
    ]
    widths = [max(len(r[i]) for r in (heads, *rows)) for i in range(len(heads))]
    lines = []
    for row in (heads, *rows):
        cells = [c.rjust(w) for c, w in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    return "\n".join(lines)
