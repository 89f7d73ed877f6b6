"""Mean cosine of items that share a prefix of their code: it should rise with the prefix length.

The mean cosine of the pairs of a group of m unit vectors with sum s is
(||s||^2 - m) / (m (m - 1)). It is exact, linear in the catalogue, and forms no pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import lists_to_matrix
from qarm.evaluation.reconstruction import drawn
from qarm.kernels.nearest import Floats
from qarm.ledger import Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

GROUP_ITEMS = 64
"""Large prefixes are thinned to about this many items before whole prefixes are left out."""


def prefix_cosines(
    ids: DataFrame, vectors: DataFrame, sizes: Sequence[int], rows: int, most: int
) -> list[Metric]:
    """Mean cosine of an item to the others that share its prefix, for lengths 0..L.

    Length 0 is any two items: the value of a prefix without information.

    If there are more than ``most`` items, prefixes with many items are thinned to about
    ``GROUP_ITEMS`` of them, and then whole prefixes are drawn. Neither changes the expected cosine
    of a pair.

    Args:
        ids: with item_idx and rq.
        vectors: rows of item_embeddings for the same items.
        sizes: number of codes of each level.
        rows: number of items of ``ids``.
        most: about this many items are measured per length.
    """
    from pyspark.sql import functions as F

    parts = []
    prefixes = 1
    for length, size in enumerate([1, *sizes]):
        prefixes = min(prefixes * size, rows)
        group = GROUP_ITEMS if length else most
        thin = min(1.0, group * prefixes / rows) if rows > most else 1.0
        prefix = F.xxhash64(F.slice("rq", 1, length))
        parts.append(
            ids.where(
                drawn(F.col("item_idx"), length, thin) & drawn(prefix, length, most / (rows * thin))
            ).select("item_idx", F.lit(length).alias("length"), prefix.alias("prefix"))
        )
    chosen = parts[0]
    for part in parts[1:]:
        chosen = chosen.unionByName(part)
    grouped = (
        chosen.join(vectors.select("item_idx", "vector"), "item_idx")
        .select("length", "prefix", "vector")
        .repartition("length", "prefix")
        .sortWithinPartitions("length", "prefix")
    )
    totals = (
        grouped.mapInArrow(_group_sums, "length int, total double, items bigint, groups bigint")
        .groupBy("length")
        .agg(*[F.sum(c).alias(c) for c in ("total", "items", "groups")])
        .orderBy("length")
        .collect()
    )
    return [
        Metric(
            metric=f"rq_prefix_cosine_l{row['length']}",
            value=row["total"] / row["items"],
            n=int(row["items"]),
            variant="rq",
        )
        for row in totals
        if row["items"]
    ]


def group_cosines(
    x: Floats, starts: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Size and sum of unit vectors of each group of consecutive rows.

    Args:
        x: (n, d), rows of a group next to each other.
        starts: (g,) first row of each group, ascending, the first 0.

    Returns:
        (g,) sizes; (g, d) sums.
    """
    norms = np.sqrt((x.astype(np.float64) ** 2).sum(axis=1))
    unit = np.divide(x, norms[:, None], out=np.zeros(x.shape), where=norms[:, None] > 0)
    sizes = np.diff(np.append(starts, len(x)))
    return sizes.astype(np.int64), np.add.reduceat(unit, starts, axis=0)


def mean_pair_cosine(sizes: NDArray[np.int64], sums: NDArray[np.float64]) -> tuple[float, int, int]:
    """Sum over groups of two or more items of (items x mean cosine of the group's pairs).

    Returns:
        That sum, the number of items in it, and the number of groups. Sum / items is the mean
        cosine of an item to the others of its group, averaged over items.
    """
    several = sizes > 1
    m = sizes[several].astype(np.float64)
    squares = (sums[several] ** 2).sum(axis=1)
    return float(((squares - m) / (m - 1)).sum()), int(m.sum()), int(several.sum())


def _group_sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """``mean_pair_cosine`` of consecutive groups (length, prefix), which may span batches."""
    import pyarrow as pa

    totals: dict[int, NDArray[np.float64]] = {}
    open_key: tuple[int, int] | None = None
    open_size, open_sum = 0, np.zeros(0)

    def close(length: int, sizes: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
        totals[length] = totals.get(length, np.zeros(3)) + mean_pair_cosine(sizes, sums)

    for batch in batches:
        if batch.num_rows == 0:
            continue
        x = lists_to_matrix(batch["vector"], "item_embeddings")
        length, prefix = batch["length"].to_numpy(), batch["prefix"].to_numpy()
        new = (length[1:] != length[:-1]) | (prefix[1:] != prefix[:-1])
        starts = np.flatnonzero(np.append(True, new))
        sizes, sums = group_cosines(x, starts)
        lengths, prefixes = length[starts], prefix[starts]
        if open_key == (lengths[0], prefixes[0]):  # continues the last group of the previous batch
            sizes[0] += open_size
            sums[0] += open_sum
        elif open_key is not None:
            close(open_key[0], np.array([open_size]), open_sum[None])
        open_key, open_size, open_sum = (lengths[-1], prefixes[-1]), sizes[-1], sums[-1]
        for each in np.unique(lengths[:-1]):
            here = lengths[:-1] == each
            close(int(each), sizes[:-1][here], sums[:-1][here])
    if open_key is not None:
        close(int(open_key[0]), np.array([open_size]), open_sum[None])
    if totals:
        yield _totals(totals, pa)


def _totals(totals: Mapping[int, NDArray[np.float64]], pa) -> pa.RecordBatch:  # type: ignore[no-untyped-def]
    values = np.array(list(totals.values()))
    return pa.RecordBatch.from_pydict(
        {
            "length": pa.array(list(totals), pa.int32()),
            "total": pa.array(values[:, 0]),
            "items": pa.array(values[:, 1].astype(np.int64)),
            "groups": pa.array(values[:, 2].astype(np.int64)),
        }
    )
