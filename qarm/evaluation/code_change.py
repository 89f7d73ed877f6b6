"""How much two sets of codes of the same items differ, and the set before the present one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qarm.evaluation.code_arrays import PartitionSums
from qarm.ledger import Metric

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from qarm.pipeline.context import Context


def code_change(old: DataFrame, new: DataFrame) -> list[Metric]:
    """Change of the codes of the items that are in both sets, by level.

    ``rq_changed_l<n>``: share of items whose n-th number is another; ``rq_prefix_changed_l<n>``:
    whose first n numbers are. They mean something where numbers of the two codebooks are matched.
    ``rq_adjusted_rand_l<n>`` and ``rq_nmi_l<n>`` compare which items share a prefix of length n,
    whatever its numbers: 1 for equal groups, 0 for what chance gives (the mutual information's 0
    is for independent groups and its chance level rises with their number).

    Args:
        old: item_idx, rq; one row an item.
        new: likewise. Where lengths differ, the shorter one is compared.
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
    found = []
    for n in lengths:
        figures = {
            "changed": row[f"n{n}"] / items,
            "prefix_changed": row[f"p{n}"] / items,
            "adjusted_rand": sums[n].adjusted_rand,
            "nmi": sums[n].mutual_information,
        }
        found += [
            Metric(metric=f"rq_{name}_l{n}", value=value, n=items, variant="rq")
            for name, value in figures.items()
        ]
    return found


def _partition_sums(both: DataFrame, levels: int) -> dict[int, PartitionSums]:
    """Sums over the cells (old prefix, new prefix) of each length; one row a length comes back."""
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
        found = groups.groupBy("pos").agg(*terms).collect()
        rows[name] = {r["pos"] + 1: (r["squares"], r["logs"]) for r in found}
        items = {r["pos"] + 1: int(r["items"]) for r in found}
    cells.unpersist()
    return {
        length: PartitionSums(
            items[length],
            *(rows[name][length][at] for at in (0, 1) for name in ("cells", "old", "new")),
        )
        for length in items
    }


def codes_before(context: Context, codebook_id: str) -> tuple[str, DataFrame] | None:
    """The codebook whose codes ``semantic_ids`` had before, and those codes; None: there is none.

    Commits of the table say which codebook they are of. A version that has been vacuumed away
    counts as none.
    """
    from delta.tables import DeltaTable
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    if context.is_external("semantic_ids"):
        return None
    ref = context.ref("semantic_ids")
    history = DeltaTable.forPath(context.spark, ref.path).history()
    commits = history.where(F.col("version") < ref.version).orderBy(F.desc("version"))
    for row in commits.select("version", "userMetadata").collect():  # a row a commit
        wrote = json.loads(row["userMetadata"] or "{}").get("codebook_id")
        if wrote is None or wrote == codebook_id:
            continue
        try:
            version = context.spark.read.format("delta").option("versionAsOf", row["version"])
            codes = version.load(ref.path).where(F.col("codebook_id") == wrote)
            codes = codes.select("item_idx", "rq")
            if codes.agg(F.max("item_idx")).first() == (None,):
                return None
        except PySparkException as error:
            context.say(f"codes of codebook {wrote} cannot be read any more: {error}")
            return None
        return wrote, codes
    return None
