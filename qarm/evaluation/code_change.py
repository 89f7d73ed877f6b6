"""How much the codes of the same items differ between two codebooks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qarm.lake.tables import TableRef
from qarm.ledger import Metric
from qarm.progress import say

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


@dataclass(frozen=True)
class PartitionSums:
    """Sums over two partitions of the same items, with groups n_i, n_j and their cells n_ij."""

    items: int
    cell_squares: float
    """Sum of n_ij^2."""
    old_squares: float
    """Sum of n_i^2."""
    new_squares: float
    """Sum of n_j^2."""
    cell_logs: float
    """Sum of n_ij ln n_ij."""
    old_logs: float
    """Sum of n_i ln n_i."""
    new_logs: float
    """Sum of n_j ln n_j."""

    @property
    def adjusted_rand(self) -> float:
        """Adjusted Rand index (Hubert and Arabie, 1985): 1 for equal, 0 expected by chance."""
        total = self.items * (self.items - 1) / 2
        cells, old, new = (
            (squares - self.items) / 2
            for squares in (self.cell_squares, self.old_squares, self.new_squares)
        )
        expected = old * new / total if total else 0.0
        most = (old + new) / 2
        return (cells - expected) / (most - expected) if most != expected else 1.0

    @property
    def mutual_information(self) -> float:
        """Mutual information over the mean of both entropies; 1 if both have only one group."""
        if self.items == 0:
            return 1.0
        log = float(np.log(self.items))
        cells, old, new = (
            log - logs / self.items for logs in (self.cell_logs, self.old_logs, self.new_logs)
        )
        return 2 * (old + new - cells) / (old + new) if old + new > 1e-12 else 1.0


def code_change(old: DataFrame, new: DataFrame) -> list[Metric]:
    """Change of the codes of the items that are in both sets, by level.

    ``rq_changed_l<n>`` is the share of items whose n-th number differs, ``rq_prefix_changed_l<n>``
    the share whose first n numbers differ. Both are meaningful only if the numbers of the two
    codebooks are matched. ``rq_adjusted_rand_l<n>`` and ``rq_nmi_l<n>`` compare which items share a
    prefix of length n, independent of its numbers: 1 for equal groups. 0 is the chance level of the
    Rand index; that of the mutual information rises with the number of groups.

    Args:
        old: item_idx, rq; one row per item.
        new: likewise. If code lengths differ, the shorter length is compared.
    """
    from pyspark.sql import functions as F

    a = old.select("item_idx", F.col("rq").alias("__old"))
    b = new.select("item_idx", F.col("rq").alias("__new"))
    both = a.join(b, "item_idx").persist()
    sizes = both.agg(
        F.count("*").alias("items"),
        F.min(F.least(F.size("__old"), F.size("__new"))).alias("levels"),
    ).first()
    assert sizes is not None
    items, levels = int(sizes["items"]), int(sizes["levels"] or 0)
    if items == 0 or levels == 0:
        both.unpersist()
        return []
    lengths = range(1, levels + 1)
    number = [F.col("__old")[n - 1] != F.col("__new")[n - 1] for n in lengths]
    prefix = [F.slice("__old", 1, n) != F.slice("__new", 1, n) for n in lengths]
    row = both.agg(
        *[F.count_if(other).alias(f"n{n}") for n, other in zip(lengths, number, strict=True)],
        *[F.count_if(other).alias(f"p{n}") for n, other in zip(lengths, prefix, strict=True)],
    ).first()
    assert row is not None
    sums = _partition_sums(both, levels)
    both.unpersist()
    metrics = []
    for n in lengths:
        figures = {
            "changed": row[f"n{n}"] / items,
            "prefix_changed": row[f"p{n}"] / items,
            "adjusted_rand": sums[n].adjusted_rand,
            "nmi": sums[n].mutual_information,
        }
        metrics += [
            Metric(metric=f"rq_{name}_l{n}", value=value, n=items, variant="rq")
            for name, value in figures.items()
        ]
    return metrics


def _partition_sums(both: DataFrame, levels: int) -> dict[int, PartitionSums]:
    """Sums over the cells (old prefix, new prefix); one row per prefix length is collected."""
    from pyspark.sql import functions as F

    def hashed(column: str) -> Column:
        return F.array(*[F.xxhash64(F.slice(column, 1, n)) for n in range(1, levels + 1)])

    cells = (
        both.select(
            F.posexplode(F.arrays_zip(hashed("__old").alias("a"), hashed("__new").alias("b")))
        )
        .groupBy("pos", "col.a", "col.b")
        .agg(F.count("*").alias("n"))
        .persist()
    )
    n = F.col("n").cast("double")
    terms = [
        F.sum(term).alias(name)
        for name, term in (("items", F.col("n")), ("squares", n * n), ("logs", n * F.log(n)))
    ]
    rows: dict[str, dict[int, tuple[float, float]]] = {}
    for name, keys in (("cells", ["a", "b"]), ("old", ["a"]), ("new", ["b"])):
        groups = cells.groupBy("pos", *keys).agg(F.sum("n").alias("n"))
        lengths = groups.groupBy("pos").agg(*terms).collect()
        rows[name] = {r["pos"] + 1: (r["squares"], r["logs"]) for r in lengths}
        items = {r["pos"] + 1: int(r["items"]) for r in lengths}
    cells.unpersist()
    return {
        length: PartitionSums(
            items[length],
            *(rows[name][length][at] for at in (0, 1) for name in ("cells", "old", "new")),
        )
        for length in items
    }


def previous_codes(
    spark: SparkSession, semantic_ids: TableRef, codebook_id: str
) -> tuple[str, DataFrame] | None:
    """The codebook that coded the catalogue before ``codebook_id``, and its codes.

    The metadata of each commit names its codebook.

    Args:
        spark: the session.
        semantic_ids: the version of the table that is measured.
        codebook_id: the codebook of that version.

    Returns:
        (codebook id, frame of item_idx and rq); None if there is none or if its version of the
        table has been vacuumed.
    """
    from delta.tables import DeltaTable
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    history = DeltaTable.forPath(spark, semantic_ids.path).history()
    commits = history.where(F.col("version") < semantic_ids.version).orderBy(F.desc("version"))
    for row in commits.select("version", "userMetadata").collect():  # one row per commit
        wrote = json.loads(row["userMetadata"] or "{}").get("codebook_id")
        if wrote is None or wrote == codebook_id:
            continue
        try:
            version = spark.read.format("delta").option("versionAsOf", row["version"])
            codes = version.load(semantic_ids.path).where(F.col("codebook_id") == wrote)
            codes = codes.select("item_idx", "rq")
            if codes.agg(F.max("item_idx")).first() == (None,):
                return None
        except PySparkException as error:
            say(f"codes of codebook {wrote} can no longer be read: {error}")
            return None
        return wrote, codes
    return None
