"""Quality of the catalogue's codes as Spark aggregations; definitions as in ``quality``.

Use of codes and collisions are counted over all items. Reconstruction and the cosine inside a
prefix need vectors beside codes and are measured on at most ``evaluation.quality_rows`` items,
drawn by hash. Nothing that grows with the catalogue is collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.codes.quality import (
    Collisions,
    group_cosines,
    mean_pair_cosine,
    reconstruction,
    usage,
)
from qarm.codes.sources import KNOWN, LATER, NEVER, with_seen
from qarm.pipeline.result import Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast
    from pyspark.sql import Column, DataFrame

    from qarm.pipeline.context import Context

GROUP_ITEMS = 64
"""Large prefixes are thinned to about so many items before whole prefixes are left out."""
_HASH_STEPS = 1 << 30


def measure(
    context: Context,
    codebook: Broadcast[Codebook],
    vectors: DataFrame,
    ids: DataFrame,
    rows: int,
) -> list[Metric]:
    """All figures of the codes in ``ids``.

    Args:
        context: of the stage.
        codebook: that made the codes.
        vectors: rows of item_embeddings, for the same items.
        ids: rows of semantic_ids of this codebook.
        rows: their number.

    Returns:
        Metrics of variant rq and vq; slices all, and, where there is a log, known (with an event
        of the training part), later (of valid and test alone) and never (no event) for collisions
        and reconstruction.
    """
    if rows == 0:
        return []
    seen = with_seen(context, ids)
    most = context.config.evaluation.quality_rows
    found = [_zero_vectors(vectors, rows)]
    book = codebook.value
    if book.levels:
        found += level_usage(ids, "rq", book.sizes)
        found += collision_metrics(seen, "rq")
        found += reconstruction_metrics(seen, vectors, codebook, most / rows)
        found += prefix_cosines(ids, vectors, book.sizes, rows, most)
    if len(book.anchors):
        found += level_usage(ids, "vq", [len(book.anchors)])
        found += collision_metrics(seen, "vq")
    return found


def _zero_vectors(vectors: DataFrame, rows: int) -> Metric:
    from pyspark.sql import functions as F

    row = vectors.agg(F.count_if(F.forall("vector", lambda x: x == 0)).alias("zero")).first()
    assert row is not None
    return Metric(metric="zero_vectors", value=float(row["zero"]), n=rows)


def _slices(present: set[str]) -> dict[str, list[str]]:
    """Slice -> values of ``seen``; all alone where every item is of one kind."""
    kinds = [kind for kind in (KNOWN, LATER, NEVER) if kind in present]
    return {"all": kinds} | ({kind: [kind] for kind in kinds} if len(kinds) > 1 else {})


def level_usage(ids: DataFrame, kind: str, sizes: list[int]) -> list[Metric]:
    """Use of each level's codes; for vq, of the anchors as nearest anchor.

    Over all items only: a slice with fewer items than codes must leave codes unused. Collects one
    number a code and level: it grows with the codebook, not with the catalogue.
    """
    from pyspark.sql import functions as F

    first = F.slice(kind, 1, len(sizes))
    rows = (
        ids.select(F.posexplode(first).alias("level", "code"))
        .groupBy("level", "code")
        .count()
        .toArrow()
    )
    level, code, count = (rows[c].to_numpy() for c in ("level", "code", "count"))
    found = []
    for number, size in enumerate(sizes):
        here = level == number
        counts = np.zeros(size, np.int64)
        counts[code[here]] = count[here]
        figures = usage(counts)
        suffix = f"_l{number + 1}" if kind == "rq" else "_first"
        for metric, value in (
            ("utilisation", figures.utilisation),
            ("dead", float(figures.dead)),
            ("entropy", figures.entropy),
            ("perplexity", figures.perplexity),
            ("gini", figures.gini),
        ):
            name = f"{kind}_{metric}{suffix}"
            found.append(Metric(metric=name, value=value, n=int(counts.sum()), variant=kind))
    return found


def collision_metrics(ids: DataFrame, kind: str) -> list[Metric]:
    """duplicate_rate, shared_rate, items_per_code.

    In a slice, distinct codes are those of its items, and an item shares its code if any other item
    of the catalogue has it.
    """
    from pyspark.sql import functions as F

    kinds = (KNOWN, LATER, NEVER)
    codes = ids.groupBy(kind).agg(
        F.count("*").alias("all"), *[F.count_if(F.col("seen") == k).alias(k) for k in kinds]
    )
    shared = F.col("all") > 1
    columns: list[Column] = []
    for name in ("all", *kinds):
        columns += [
            F.sum(name).alias(f"{name}_items"),
            F.count_if(F.col(name) > 0).alias(f"{name}_codes"),
            F.sum(F.when(shared, F.col(name)).otherwise(0)).alias(f"{name}_shared"),
            F.max(name).alias(f"{name}_largest"),
        ]
    row = codes.agg(*columns).first()
    assert row is not None
    found = []
    for name in _slices({k for k in kinds if row[f"{k}_items"]}):
        figures = Collisions(
            *(int(row[f"{name}_{c}"]) for c in ("items", "codes", "shared", "largest"))
        )
        for metric, value in (
            ("duplicate_rate", figures.duplicate_rate),
            ("shared_rate", figures.shared_rate),
            ("items_per_code", figures.items_per_code),
            ("largest_code", float(figures.largest)),
        ):
            found.append(
                Metric(metric=metric, value=value, n=figures.items, slice=name, variant=kind)
            )
    return found


def _drawn(column: Column, salt: int, share: float) -> Column:
    """True for about ``share`` of the values of ``column``, by hash."""
    from pyspark.sql import functions as F

    bound = min(_HASH_STEPS, int(share * _HASH_STEPS))
    return F.pmod(F.xxhash64(column, F.lit(salt)), F.lit(_HASH_STEPS)) < bound


def reconstruction_metrics(
    ids: DataFrame, vectors: DataFrame, codebook: Broadcast[Codebook], share: float
) -> list[Metric]:
    """Mean squared error, its share of the squared length, and cosine, after each level."""
    from pyspark.sql import functions as F

    sample = ids.where(_drawn(F.col("item_idx"), 0, share)).select("item_idx", "seen", "rq")
    pairs = sample.join(vectors.select("item_idx", "vector"), "item_idx")

    def sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        levels = codebook.value.levels
        for batch in batches:
            seen = np.asarray(batch["seen"].to_pylist())
            x = lists_to_matrix(batch["vector"], "item_embeddings").astype(np.float32, copy=False)
            rq = lists_to_matrix(batch["rq"], "semantic_ids")
            for kind in np.unique(seen):
                part = reconstruction(x[seen == kind], rq[seen == kind], levels)
                count = len(levels)
                yield pa.RecordBatch.from_pydict(
                    {
                        "seen": [str(kind)] * count,
                        "level": pa.array(np.arange(count, dtype=np.int32)),
                        "items": pa.array(np.full(count, part.items, np.int64)),
                        "error": pa.array(part.error),
                        "relative": pa.array(part.relative),
                        "cosine": pa.array(part.cosine),
                    }
                )

    figures = ("error", "relative", "cosine")
    rows = (
        pairs.select("seen", "rq", "vector")
        .mapInArrow(
            sums,
            "seen string, level int, items bigint, error double, relative double, cosine double",
        )
        .groupBy("seen", "level")
        .agg(F.sum("items").alias("items"), *[F.sum(f).alias(f) for f in figures])
        .collect()
    )
    names = {"error": "reconstruction_error", "relative": "relative_error", "cosine": "cosine"}
    found = []
    for name, kinds in _slices({row["seen"] for row in rows}).items():
        for level in sorted({row["level"] for row in rows}):
            here = [row for row in rows if row["level"] == level and row["seen"] in kinds]
            items = sum(row["items"] for row in here)
            for figure in figures:
                found.append(
                    Metric(
                        metric=f"rq_{names[figure]}_l{level + 1}",
                        value=sum(row[figure] for row in here) / items,
                        n=items,
                        slice=name,
                        variant="rq",
                    )
                )
    return found


def prefix_cosines(
    ids: DataFrame, vectors: DataFrame, sizes: list[int], rows: int, most: int
) -> list[Metric]:
    """Mean cosine of an item to the others that share its prefix, for lengths 1..L.

    Where there are more than ``most`` items, prefixes with many items are thinned to about
    ``GROUP_ITEMS`` of them, and then whole prefixes are drawn; neither moves the expected value of
    a pair's cosine.
    """
    from pyspark.sql import functions as F

    parts = []
    prefixes = 1
    for length, size in enumerate(sizes, start=1):
        prefixes = min(prefixes * size, rows)
        thin = min(1.0, GROUP_ITEMS * prefixes / rows) if rows > most else 1.0
        prefix = F.xxhash64(F.slice("rq", 1, length))
        parts.append(
            ids.where(
                _drawn(F.col("item_idx"), length, thin)
                & _drawn(prefix, length, most / (rows * thin))
            ).select("item_idx", F.lit(length).alias("length"), prefix.alias("prefix"))
        )
    drawn = parts[0]
    for part in parts[1:]:
        drawn = drawn.unionByName(part)
    grouped = (
        drawn.join(vectors.select("item_idx", "vector"), "item_idx")
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


def _group_sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """``mean_pair_cosine`` of groups (length, prefix) that lie side by side, also over batches."""
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
        if open_key == (lengths[0], prefixes[0]):  # the last group of the batch before goes on
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
