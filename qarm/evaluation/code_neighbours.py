"""Overlap of the nearest items in code space and in vector space.

The queries are a sample of items drawn by hash, the candidates the whole catalogue. The queries are
broadcast, each task keeps the k nearest of its rows, and these lists are merged. The shuffle moves
tasks x queries x k numbers per space; one number per query is collected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.codes.residual import reconstruct
from qarm.evaluation import nearest_items as core
from qarm.evaluation.estimates import student_t
from qarm.evaluation.slices import BITS, ITEM_SLICES, slices_of
from qarm.ledger import Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

VECTORS = "vectors"
_SALT = 20
#: Keys of a tile, queries x candidates (8 MiB).
_TILE = 1 << 20


@dataclass(frozen=True)
class _Side:
    """Queries or catalogue rows in every space."""

    items: NDArray[np.int64]
    unit: NDArray[np.float64]
    rq: NDArray[np.integer[Any]]
    means: NDArray[np.float64]
    vq: NDArray[np.integer[Any]]

    @classmethod
    def of(cls, rows: pa.RecordBatch | pa.Table, book: Codebook) -> _Side:
        """From columns item_idx, vector, rq, vq."""
        rq = lists_to_matrix(rows["rq"], "semantic_ids")
        x = lists_to_matrix(rows["vector"], "item_embeddings")
        means = reconstruct(rq, book.levels)[-1] if book.levels else np.zeros((len(x), 1))
        return cls(
            items=rows["item_idx"].to_numpy(),
            unit=core.unit_rows(x),
            rq=rq,
            means=means.astype(np.float64),
            vq=lists_to_matrix(rows["vq"], "semantic_ids"),
        )


def neighbour_overlap(
    ids: DataFrame, vectors: DataFrame, book: Codebook, rows: int, queries: int, k: int
) -> list[Metric]:
    """Mean Jaccard index of the k nearest items in code space and in vector space.

    In vector space, nearness is by cosine. In code space, it is for ``rq`` by the longest common
    prefix, then by the distance of the sums of centroids; for ``vq`` by the number of shared
    anchors. Ties are broken by a hash of the item, the same in all spaces.

    Args:
        ids: with rq, vq and the column ``slices`` of ``slices.with_item_slices``.
        vectors: rows of item_embeddings for the same items.
        book: the codebook that made the codes.
        rows: number of items of ``ids``.
        queries: upper bound on the number of queries.
        k: number of neighbours compared.
    """
    from pyspark.sql import functions as F

    spark = ids.sparkSession
    catalogue = ids.select("item_idx", BITS, "rq", "vq").join(
        vectors.select("item_idx", "vector"), "item_idx"
    )
    by_hash = catalogue.orderBy(F.xxhash64("item_idx", F.lit(_SALT)), "item_idx")
    asked = by_hash.limit(queries).toArrow()
    if asked.num_rows < 2 or rows < 3:
        return []
    query = _Side.of(asked, book)
    shared = spark.sparkContext.broadcast((query, book, k))

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _nearest(batches, *shared.value)

    lists = (
        catalogue.select("item_idx", "vector", "rq", "vq")
        .mapInArrow(task, "space string, query int, keys array<bigint>, items array<bigint>")
        .groupBy("space", "query")
        .agg(F.flatten(F.collect_list(F.arrays_zip("keys", "items"))).alias("near"))
        .select(
            "space",
            "query",
            F.slice(F.sort_array("near", asc=False), 1, k)["items"].alias("near"),
        )
    )
    truth = lists.where(F.col("space") == VECTORS).select("query", F.col("near").alias("truth"))
    both = F.size(F.array_intersect("near", "truth"))
    overlaps = (
        lists.where(F.col("space") != VECTORS)
        .join(truth, "query")
        .select(
            "space",
            "query",
            F.try_divide(both, F.size("near") + F.size("truth") - both).alias("jaccard"),
        )
        .toArrow()  # one number per query
    )
    shared.destroy()
    bits = asked[BITS].to_numpy()
    space = np.asarray(overlaps["space"].to_pylist())
    values, number = overlaps["jaccard"].to_numpy(), overlaps["query"].to_numpy()
    metrics = []
    for name in _spaces(book):
        here = space == name
        metrics += _metrics(name, values[here], bits[number[here]], k)
        chance = core.jaccard_by_chance(k, rows - 1)
        metrics.append(
            Metric(metric=f"neighbour_overlap_chance@{k}", value=chance, n=rows, variant=name)
        )
    return metrics


def _spaces(book: Codebook) -> list[str]:
    levels = 0 < len(book.levels) <= core.MOST_LEVELS
    return ["rq"] * levels + ["vq"] * bool(len(book.anchors))


def _metrics(
    variant: str, values: NDArray[np.float64], bits: NDArray[np.integer[Any]], k: int
) -> list[Metric]:
    """Means over all queries and over those of each slice, with 95 % intervals."""
    metrics = []
    for name in ITEM_SLICES:
        inside = np.array([name in slices_of(int(b)) for b in bits])
        n = int(inside.sum())
        if n == 0 or (name != "all" and n == len(values)):
            continue
        mean, half = float(values[inside].mean()), None
        if n > 1:
            half = student_t(n - 1) * float(values[inside].std(ddof=1)) / math.sqrt(n)
        metrics.append(
            Metric(
                metric=f"neighbour_overlap@{k}",
                value=mean,
                n=n,
                slice=name,
                variant=variant,
                low=None if half is None else max(0.0, mean - half),
                high=None if half is None else min(1.0, mean + half),
            )
        )
    return metrics


def _nearest(
    batches: Iterable[pa.RecordBatch], query: _Side, book: Codebook, k: int
) -> Iterator[pa.RecordBatch]:
    """One task: its k nearest rows to each query, in each space."""
    import pyarrow as pa
    import torch

    torch.set_num_threads(1)  # one thread per Spark task
    names = [VECTORS, *_spaces(book)]
    best = {name: core.Nearest.empty(len(query.items), k) for name in names}
    scale = 4 * sum(float(np.sqrt((c**2).sum(axis=1)).max()) for c in book.levels) ** 2 or 1.0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        side = _Side.of(batch, book)
        for some in core.tiles(len(query.items), batch.num_rows, _TILE):
            for name, keys in _keys(query, some, side, names, scale).items():
                best[name].add(some.start, keys, side.items)
    for name, nearest in best.items():
        there = nearest.keys >= 0
        offsets = pa.array(np.append(0, np.cumsum(there.sum(axis=1))).astype(np.int32))
        yield pa.RecordBatch.from_pydict(
            {
                "space": [name] * len(there),
                "query": pa.array(np.arange(len(there), dtype=np.int32)),
                "keys": pa.ListArray.from_arrays(offsets, pa.array(nearest.keys[there])),
                "items": pa.ListArray.from_arrays(offsets, pa.array(nearest.items[there])),
            }
        )


def _keys(
    query: _Side, some: slice, side: _Side, names: list[str], scale: float
) -> Mapping[str, NDArray[np.int64]]:
    ties = core.tie_breaks(side.items)
    keys = {VECTORS: core.vector_keys(query.unit[some], side.unit, ties)}
    if "rq" in names:
        keys["rq"] = core.code_keys(
            query.rq[some], query.means[some], side.rq, side.means, ties, scale
        )
    if "vq" in names:
        keys["vq"] = core.list_keys(query.vq[some], side.vq, ties)
    itself = query.items[some, None] == side.items[None]
    for each in keys.values():
        each[itself] = -1
    return keys
