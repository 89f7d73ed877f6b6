"""What a miner returns: pairs, and a count of the others by reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Columns of mined pairs, without what the stage adds (source, split, version).
PAIR_COLUMNS = ("trigger", "target", "score", "support", "weight", "last_ts")

#: What the kernels of Swing and ItemCF count: pairs with a score, and reasons to drop one.
PAIR_COUNTS = ("scored", "below_min_support", "beyond_top_k")

#: What a kernel's rows look like in Spark: pairs, and rows that carry counts only.
ROW_SCHEMA = (
    "trigger bigint, target bigint, score double, support bigint, weight double, last_ts bigint, "
    "counts array<bigint>"
)

#: Called on frames that are read more than once, such as ``DataFrame.persist``.
Keep = Callable[["DataFrame"], "DataFrame"]


def recompute(df: DataFrame) -> DataFrame:
    """The ``Keep`` that keeps nothing."""
    return df


@dataclass(frozen=True, kw_only=True)
class Mined:
    """Rows of a miner; some carry counts instead of a pair.

    Counts travel with the rows because Spark's accumulators count a retried task twice, and dropped
    pairs cannot be counted afterwards.
    """

    rows: DataFrame
    """The miner's own columns, and counts (array<bigint>, null where the row is a pair)."""
    names: tuple[str, ...]
    """What ``counts`` counts, in order; the first is the total, the others reasons to drop."""
    skew: dict[str, Any] = field(default_factory=dict)
    """Facts about caps: users and items capped, largest groups, share of events lost."""

    @property
    def pairs(self) -> DataFrame:
        """The rows that are pairs."""
        return self.rows.where("counts IS NULL").drop("counts")

    def tally(self) -> dict[str, int]:
        """Name -> count, added up over all partitions. An action: persist ``rows`` before."""
        from pyspark.sql import functions as F

        sums = [F.sum(F.col("counts")[k]).alias(name) for k, name in enumerate(self.names)]
        row = self.rows.where("counts IS NOT NULL").agg(*sums).first()
        assert row is not None
        return {name: int(row[name] or 0) for name in self.names}


def coverage(pairs: DataFrame) -> dict[str, tuple[int, int]]:
    """Source -> its pairs and the distinct items in them, of rows of item_pairs."""
    from pyspark.sql import functions as F

    item = F.explode(F.array("trigger", "target")).alias("item_idx")
    items = pairs.select("source", item).groupBy("source").agg(F.count_distinct("item_idx"))
    rows = dict(map(tuple, pairs.groupBy("source").count().collect()))
    return {source: (rows[source], n) for source, n in items.collect()}
