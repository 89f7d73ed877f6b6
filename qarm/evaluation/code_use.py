"""Quality of the catalogue's codes as Spark aggregations; definitions as in ``code_arrays``.

Use of codes and collisions are counted over all items. Reconstruction needs vectors beside codes
and is measured on at most ``evaluation.quality_rows`` items, drawn by hash. Nothing that grows with
the catalogue is collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.errors import InputError
from qarm.evaluation.code_arrays import Collisions, reconstruction, usage
from qarm.evaluation.code_slices import BITS, SLICES, member, names, told, within
from qarm.ledger import Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast
    from pyspark.sql import Column, DataFrame

_HASH_STEPS = 1 << 30


def zero_vectors(vectors: DataFrame) -> Metric:
    """Vectors without a direction."""
    from pyspark.sql import functions as F

    zero = F.count_if(F.forall("vector", lambda x: x == 0))
    row = vectors.agg(zero.alias("zero"), F.count("*").alias("rows")).first()
    assert row is not None
    return Metric(metric="zero_vectors", value=float(row["zero"]), n=int(row["rows"]))


def level_usage(ids: DataFrame, kind: str, sizes: Sequence[int]) -> list[Metric]:
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
        if not here.any() or code[here].min() < 0 or code[here].max() >= size:
            seen = f"{code[here].min()} to {code[here].max()}" if here.any() else "none"
            raise InputError(
                f"semantic_ids: expected {kind} codes 0 to {size - 1} at level {number + 1}, seen "
                f"{seen}; these codes belong to another codebook"
            )
        counts = np.zeros(size, np.int64)
        counts[code[here]] = count[here]
        figures = usage(counts)
        suffix = "_first" if kind == "vq" else f"_l{number + 1}"
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
    """duplicate_rate, shared_rate, items_per_code, largest_code by slice.

    In a slice, distinct codes are those of its items, and an item shares its code if any other item
    of the catalogue has it.

    Args:
        ids: with ``kind`` and the bits of ``slices.with_slices``.
        kind: rq, rq_resolved or vq.
    """
    from pyspark.sql import functions as F

    counted = [F.count_if(member(name)).alias(name) for name in SLICES]
    codes = ids.groupBy(kind).agg(*counted)
    shared = F.col("all") > 1
    columns: list[Column] = []
    for name in SLICES:
        columns += [
            F.sum(name).alias(f"{name}_items"),
            F.count_if(F.col(name) > 0).alias(f"{name}_codes"),
            F.sum(F.when(shared, F.col(name)).otherwise(0)).alias(f"{name}_shared"),
            F.max(name).alias(f"{name}_largest"),
        ]
    row = codes.agg(*columns).first()
    assert row is not None
    found = []
    for name in told((name, row[f"{name}_items"] or 0) for name in SLICES):
        figures = Collisions(
            *(int(row[f"{name}_{c}"] or 0) for c in ("items", "codes", "shared", "largest"))
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


def drawn(column: Column, salt: int, share: float) -> Column:
    """True for about ``share`` of the values of ``column``, by hash."""
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
        ids: with ``kind`` and the bits of ``slices.with_slices``.
        vectors: rows of item_embeddings, for the same items.
        codebook: that made the codes.
        share: of the items that are looked at, by hash.
        kind: rq or rq_resolved.
    """
    from pyspark.sql import functions as F

    sample = ids.where(drawn(F.col("item_idx"), 0, share)).select("item_idx", BITS, kind)
    pairs = sample.join(vectors.select("item_idx", "vector"), "item_idx")

    def sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
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

    figures = ("error", "relative", "cosine")
    rows = (
        pairs.select(BITS, kind, "vector")
        .mapInArrow(
            sums,
            f"{BITS} int, level int, items bigint, error double, relative double, cosine double",
        )
        .groupBy(BITS, "level")
        .agg(F.sum("items").alias("items"), *[F.sum(f).alias(f) for f in figures])
        .collect()  # a row a level and combination of slices
    )
    metrics = {"error": "reconstruction_error", "relative": "relative_error", "cosine": "cosine"}
    items: dict[str, int] = {}
    for row in rows:
        for name in within(row[BITS]) if row["level"] == 0 else ():
            items[name] = items.get(name, 0) + row["items"]
    found = []
    for name in names(told(items.items())) if items else []:
        for level in sorted({row["level"] for row in rows}):
            here = [r for r in rows if r["level"] == level and name in within(r[BITS])]
            for figure in figures:
                found.append(
                    Metric(
                        metric=f"{kind}_{metrics[figure]}_l{level + 1}",
                        value=sum(r[figure] for r in here) / items[name],
                        n=items[name],
                        slice=name,
                        variant=kind,
                    )
                )
    return found
