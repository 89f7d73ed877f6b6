"""How well the pool rules of VQ anchors cover the items of a lake (`qarm anchor-pools`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from qarm.codes.anchors import nearest_k
from qarm.codes.code_counts import usage
from qarm.codes.pools import Pool, Rule, choose_by
from qarm.codes.sampling import sample_by_hash
from qarm.kernels.nearest import Floats
from qarm.pipeline.context import open_context
from qarm.stages.fit_codebooks import usable_vectors

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from qarm.config import Config

ITEMS = 20_000
"""Most items that coverage is measured on, by hash."""


def compare_pools(config: Config, spark: SparkSession) -> dict[str, Coverage]:
    """Coverage by each pool rule, for the lake's vectors and the settings of ``[codes]``.

    ``popular`` is left out where there are no events. Nothing is written.

    Raises:
        InputError: no usable vectors, or fewer than a VQ code is long.
        MissingStageError: embed-catalog has not run.
    """
    context = open_context(config, spark, "anchor-pools")
    usable, counts, _ = usable_vectors(context)
    usable = usable.persist()
    rows = counts.get("fit", 0)
    items, vectors = sample_by_hash(usable, rows, ITEMS, config.codes.seed + 1)
    found = {}
    for rule in get_args(Rule):
        if rule == "popular" and context.find("event_splits") is None:
            continue
        context.say(f"pool {rule}")
        pool = choose_by(context, usable, rows, rule)
        found[rule] = coverage(vectors, items, pool, config.codes.vq_k)
    usable.unpersist()
    return found


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
    # The item itself leaves; of a row without it the last one does.
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


def table_of(found: Mapping[str, Coverage]) -> str:
    """The comparison as lines of text."""
    heads = ("pool", "anchors", "nearest", "farthest", "code", "used first", "used", "entropy")
    rows = [
        (
            name,
            str(c.anchors),
            *(f"{v:.4f}" for v in (c.nearest, c.farthest, c.code)),
            *(f"{v:.3f}" for v in (c.first_used, c.used, c.entropy)),
        )
        for name, c in found.items()
    ]
    widths = [max(len(r[i]) for r in (heads, *rows)) for i in range(len(heads))]
    lines = []
    for row in (heads, *rows):
        cells = [c.rjust(w) for c, w in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    return "\n".join(lines)
