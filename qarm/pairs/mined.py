"""What a miner hands over: pairs, and a tally of where the others went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qarm.ledger import Ledger

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Columns of mined pairs, without what the stage adds (source, split, version).
PAIR_COLUMNS = ("trigger", "target", "score", "support", "weight", "last_ts")

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
    """Rows of a miner, of which each partition's last ones carry counts in place of a pair.

    Counts travel with the rows because Spark's accumulators count a retried task twice, and
    counting pairs afterwards would need those that were dropped.
    """

    rows: DataFrame
    """The miner's own columns, and counts (array<bigint>, null where the row is a pair)."""
    names: tuple[str, ...]
    """What ``counts`` counts, in order; the first is the total, the others reasons to drop."""
    skew: dict[str, Any] = field(default_factory=dict)
    """Facts about caps: users and items capped, largest groups, share of events lost."""

    @property
    def pairs(self) -> DataFrame:
        """The rows that are no counts."""
        return self.rows.where("counts IS NULL").drop("counts")

    def tally(self) -> dict[str, int]:
        """Name -> count, added up over all partitions. An action: keep ``rows`` before."""
        from pyspark.sql import functions as F

        sums = [F.sum(F.col("counts")[k]).alias(name) for k, name in enumerate(self.names)]
        row = self.rows.where("counts IS NOT NULL").agg(*sums).first()
        assert row is not None
        return {name: int(row[name] or 0) for name in self.names}


def keep_pairs(
    title: str, mined: Mined, kept: Keep
) -> tuple[DataFrame, list[Ledger], dict[str, Any]]:
    """A miner's pairs, the ledger named after ``title``, and facts about skew. An action."""
    rows = Mined(rows=kept(mined.rows), names=mined.names)
    tally = rows.tally()
    ledger = Ledger(
        name=f"{title} pairs",
        rows_in=tally.pop("scored"),
        rows_out=rows.pairs.count(),
        dropped=tally,
    )
    return rows.pairs, [ledger], mined.skew
