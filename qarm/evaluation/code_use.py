"""Use of codes and collisions, counted over all items by Spark.

The figures are those of ``codes.code_counts``. Nothing that grows with the catalogue is collected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qarm.codes.code_counts import Collisions, usage
from qarm.errors import InputError
from qarm.evaluation.slices import ITEM_SLICES, in_slice, reported
from qarm.ledger import Metric

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def zero_vectors(vectors: DataFrame) -> Metric:
    """Number of vectors that are zero and so have no direction."""
    from pyspark.sql import functions as F

    zero = F.count_if(F.forall("vector", lambda x: x == 0))
    row = vectors.agg(zero.alias("zero"), F.count("*").alias("rows")).first()
    assert row is not None
    return Metric(metric="zero_vectors", value=float(row["zero"]), n=int(row["rows"]))


def level_usage(ids: DataFrame, kind: str, sizes: Sequence[int]) -> list[Metric]:
    """Use of the codes of each level; for vq, of the anchors as nearest anchor.

    Over all items only: a slice with fewer items than codes cannot use all of them. Collects one
    number per level and code, which grows with the codebook but not with the catalogue.

    Args:
        ids: with the column ``kind``.
        kind: rq, rq_resolved or vq.
        sizes: number of codes of each level.

    Raises:
        InputError: a code is outside its level.
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
    metrics = []
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
            metrics.append(Metric(metric=name, value=value, n=int(counts.sum()), variant=kind))
    return metrics


def collision_metrics(ids: DataFrame, kind: str) -> list[Metric]:
    """duplicate_rate, shared_rate, items_per_code and largest_code by slice.

    The distinct codes of a slice are those of its items. An item shares its code if any other item
    of the catalogue has the same one, in the slice or not.

    Args:
        ids: with ``kind`` and the column ``slices`` of ``slices.with_item_slices``.
        kind: rq, rq_resolved or vq.
    """
    from pyspark.sql import functions as F

    counted = [F.count_if(in_slice(name)).alias(name) for name in ITEM_SLICES]
    codes = ids.groupBy(kind).agg(*counted)
    shared = F.col("all") > 1
    columns: list[Column] = []
    for name in ITEM_SLICES:
        columns += [
            F.sum(name).alias(f"{name}_items"),
            F.count_if(F.col(name) > 0).alias(f"{name}_codes"),
            F.sum(F.when(shared, F.col(name)).otherwise(0)).alias(f"{name}_shared"),
            F.max(name).alias(f"{name}_largest"),
        ]
    row = codes.agg(*columns).first()
    assert row is not None
    metrics = []
    for name in reported({name: row[f"{name}_items"] or 0 for name in ITEM_SLICES}):
        figures = Collisions(
            *(int(row[f"{name}_{c}"] or 0) for c in ("items", "codes", "shared", "largest"))
        )
        for metric, value in (
            ("duplicate_rate", figures.duplicate_rate),
            ("shared_rate", figures.shared_rate),
            ("items_per_code", figures.items_per_code),
            ("largest_code", float(figures.largest)),
        ):
            metrics.append(
                Metric(metric=metric, value=value, n=figures.items, slice=name, variant=kind)
            )
    return metrics
