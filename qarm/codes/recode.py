"""What a run of assign-codes has to touch: new and changed items are coded, others stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qarm.codes.codebook import Codebook
from qarm.lake.tables import TableRef
from schemas import semantic_ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

TABLE = semantic_ids.TABLE


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Differences between ``semantic_ids`` and the vectors, counted."""

    table: TableRef | None
    """The table as it is; None: there is none yet."""
    todo: DataFrame
    """Vectors to code: (item_id, item_idx, content_hash, vector)."""
    leave: DataFrame | None
    """Keys of rows that leave; None: nothing to compare with."""
    before: int = 0
    """Rows in the table, of any codebook."""
    new: int = 0
    changed: int = 0
    """Items whose content, encoder or length of code is another."""
    same: int = 0
    removed: int = 0
    """Items without a vector any more."""
    older: int = 0
    """Rows of other codebooks that leave."""

    @property
    def idle(self) -> bool:
        """Whether the table is as it should be."""
        return self.table is not None and not (
            self.new or self.changed or self.removed or self.older
        )

    @property
    def replaces_all(self) -> bool:
        """Whether no row of the table stays as it is: written at once, without a MERGE."""
        return self.before == self.changed + self.removed + self.older


def compare(
    context: Context,
    codebook: Codebook,
    vectors: DataFrame,
    vq_k: int,
    *,
    keep_older: bool,
    resolved: bool = False,
) -> Plan:
    """Compare the table with the vectors by item, content, encoder and length of the codes.

    Args:
        context: of the stage.
        codebook: whose codes the table should have.
        vectors: rows of item_embeddings of one encoder.
        vq_k: length of a VQ code.
        keep_older: rows of other codebooks stay.
        resolved: rows without rq_resolved are coded again.
    """
    from pyspark.sql import functions as F

    version = context.lake.version(TABLE.name)
    columns = vectors.select("item_id", "item_idx", "content_hash", "vector")
    if version < 0:
        return Plan(table=None, todo=columns, leave=None, new=vectors.count())
    table = TableRef(TABLE.name, context.lake.path(TABLE.name), version)
    mine = F.col("codebook_id") == codebook.codebook_id
    before = context.lake.read(table)
    lacking = F.col("rq_resolved").isNull() & F.lit(resolved)
    coded = before.where(mine).select(
        "item_id",
        F.struct("encoder_version", "content_hash", F.size("rq"), F.size("vq"), lacking).alias(
            "coded"
        ),
    )
    current = vectors.select(
        "item_id",
        F.struct(
            "encoder_version",
            "content_hash",
            F.lit(len(codebook.levels)),
            F.lit(vq_k),
            F.lit(False),
        ).alias("current"),
    )
    state = (
        F.when(F.col("coded").isNull(), "new")
        .when(F.col("current").isNull(), "removed")
        .when(F.col("coded") == F.col("current"), "same")
        .otherwise("changed")
    )
    states = current.join(coded, "item_id", "full_outer").select("item_id", state.alias("state"))
    counts = {r["state"]: int(r["count"]) for r in states.groupBy("state").count().collect()}
    rows = before.count()
    others = rows - sum(counts.get(s, 0) for s in ("changed", "same", "removed"))
    wanted = states.where(F.col("state").isin("new", "changed")).select("item_id")
    leave = states.where("state = 'removed'").select(
        "item_id", F.lit(codebook.codebook_id).alias("codebook_id")
    )
    if not keep_older and others:
        leave = leave.unionByName(before.where(~mine).select("item_id", "codebook_id"))
    return Plan(
        table=table,
        todo=columns.join(wanted, "item_id", "left_semi"),
        leave=leave,
        before=rows,
        new=counts.get("new", 0),
        changed=counts.get("changed", 0),
        same=counts.get("same", 0),
        removed=counts.get("removed", 0),
        older=0 if keep_older else others,
    )
