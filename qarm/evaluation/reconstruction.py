"""How well sums of centroids reconstruct the vectors, on a sample of items drawn by hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.codes.residual import reconstruct
from qarm.evaluation.slices import BITS, reported, slices_of
from qarm.kernels.nearest import Floats
from qarm.ledger import Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast
    from pyspark.sql import Column, DataFrame

_HASH_STEPS = 1 << 30


@dataclass(frozen=True)
class Reconstruction:
    """Sums over some items; those of several parts of the catalogue add up."""

    items: int
    error: NDArray[np.float64]
    """(L,) sum of ||x - x'||^2 after each level, x' the sum of centroids."""
    relative: NDArray[np.float64]
    """(L,) sum of ||x - x'||^2 / ||x||^2; zero vectors count 0."""
    cosine: NDArray[np.float64]
    """(L,) sum of cos(x, x'); zero vectors count 0."""


def reconstruction(
    x: Floats, codes: NDArray[np.integer[Any]], levels: Sequence[Floats]
) -> Reconstruction:
    """Reconstruction of vectors (n, d) from their codes (n, L).

    Args:
        x: (n, d) vectors.
        codes: (n, L).
        levels: L arrays (K, d) of centroids.
    """
    wide = x.astype(np.float64)
    squares = (wide**2).sum(axis=1)
    error, relative, cosine = [], [], []
    for estimate in reconstruct(codes, levels):
        rest = ((wide - estimate) ** 2).sum(axis=1)
        norms = np.sqrt(squares * (estimate.astype(np.float64) ** 2).sum(axis=1))
        products = (wide * estimate).sum(axis=1)
        error.append(rest.sum())
        relative.append(np.divide(rest, squares, out=np.zeros_like(rest), where=squares > 0).sum())
        cosine.append(np.divide(products, norms, out=np.zeros_like(rest), where=norms > 0).sum())
    return Reconstruction(len(x), np.array(error), np.array(relative), np.array(cosine))


def drawn(column: Column, salt: int, share: float) -> Column:
    """True for about ``share`` of the values of ``column``, chosen by a hash with ``salt``."""
    from pyspark.sql import functions as F

    bound = min(_HASH_STEPS, int(share * _HASH_STEPS))
    return F.pmod(F.xxhash64(column, F.lit(salt)), F.lit(_HASH_STEPS)) < bound


def reconstruction_metrics(
    ids: DataFrame,
    vectors: DataFrame,
    codebook: Broadcast[Codebook],
    share: float,
    kind: str = "rq",
) -> list[Metric]:
    """Mean squared error, its share of the squared length, and cosine, after each level, by slice.

    Args:
        ids: with ``kind`` and the column ``slices`` of ``slices.with_item_slices``.
        vectors: rows of item_embeddings for the same items.
        codebook: the codebook that made the codes.
        share: share of the items that are measured, chosen by hash.
        kind: rq or rq_resolved.
    """
    from pyspark.sql import functions as F

    sample = ids.where(drawn(F.col("item_idx"), 0, share)).select("item_idx", BITS, kind)
    pairs = sample.join(vectors.select("item_idx", "vector"), "item_idx")

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        levels = codebook.value.levels
        for batch in batches:
            bits = batch[BITS].to_numpy()
            x = lists_to_matrix(batch["vector"], "item_embeddings").astype(np.float32, copy=False)
            codes = lists_to_matrix(batch[kind], "semantic_ids")
            for each in np.unique(bits):
                part = reconstruction(x[bits == each], codes[bits == each], levels)
                count = len(levels)
                yield pa.RecordBatch.from_pydict(
                    {
                        BITS: pa.array(np.full(count, each, np.int32)),
                        "level": pa.array(np.arange(count, dtype=np.int32)),
                        "items": pa.array(np.full(count, part.items, np.int64)),
                        "error": pa.array(part.error),
                        "relative": pa.array(part.relative),
                        "cosine": pa.array(part.cosine),
                    }
                )

    names = {"error": "reconstruction_error", "relative": "relative_error", "cosine": "cosine"}
    rows = (
        pairs.select(BITS, kind, "vector")
        .mapInArrow(
            task,
            f"{BITS} int, level int, items bigint, error double, relative double, cosine double",
        )
        .groupBy(BITS, "level")
        .agg(F.sum("items").alias("items"), *[F.sum(f).alias(f) for f in names])
        .collect()  # one row per level and combination of slices
    )
    items: dict[str, int] = {}
    for row in rows:
        for name in slices_of(row[BITS]) if row["level"] == 0 else ():
            items[name] = items.get(name, 0) + row["items"]
    metrics = []
    for name in reported(items) if items else []:
        for level in sorted({row["level"] for row in rows}):
            here = [r for r in rows if r["level"] == level and name in slices_of(r[BITS])]
            for figure in names:
                metrics.append(
                    Metric(
                        metric=f"{kind}_{names[figure]}_l{level + 1}",
                        value=sum(r[figure] for r in here) / items[name],
                        n=items[name],
                        slice=name,
                        variant=kind,
                    )
                )
    return metrics
