"""What a run of assign-codes has to touch: new and changed items are coded, others stay.

The change feed of ``item_embeddings``, from the version that the last published run has read to the
present one, names the items that may differ; only these are looked at. Where there is no such feed
(``_feed`` says when) all vectors are compared with all codes, which gives the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qarm.codes.codebook import Codebook
from qarm.lake import manifest
from qarm.lake.tables import TableRef
from schemas import semantic_ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.lake.manifest import Manifest
    from qarm.pipeline.context import Context

TABLE = semantic_ids.TABLE
_COLUMNS = ("item_id", "item_idx", "content_hash", "vector")
_CHANGE = "_change_type"


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
    others: int = 0
    """Rows of other codebooks, whether they leave or not."""
    found_by: str = "first run"
    """How the differences were found, and, for a comparison, why not by the change feed."""

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


def plan_recode(
    context: Context,
    codebook: Codebook,
    encoder: str,
    vectors: DataFrame,
    vq_k: int,
    *,
    rows: int,
    keep_older: bool,
) -> Plan:
    """Differences between the table and the vectors, by item, content, encoder and code length.

    Args:
        context: of the stage.
        codebook: whose codes the table should have.
        encoder: whose vectors are coded.
        vectors: rows of item_embeddings of that encoder.
        vq_k: length of a VQ code.
        rows: number of ``vectors``.
        keep_older: rows of other codebooks stay.
    """
    version = context.lake.version(TABLE.name)
    if version < 0:
        return Plan(table=None, todo=vectors.select(*_COLUMNS), leave=None, new=rows)
    table = TableRef(TABLE.name, context.lake.path(TABLE.name), version)
    try:
        last = manifest.find(context.lake.root, context.stage)
        first, now = _feed_range(context, codebook, encoder, vq_k, table, last)
        others = int(last.facts["older_rows"]) if last else 0
        if others and not keep_older:
            raise _NoFeedError("rows of other codebooks have to leave")
        feed = _feed(context, encoder, first, now)
    except _NoFeedError as error:
        return _compare(context, codebook, table, vectors, vq_k, keep_older, f"comparison: {error}")
    before = context.lake.read(table)
    if feed is None:  # nothing to look at
        found_by, counts = "no new version of item_embeddings", {}
        todo, leave = vectors.select(*_COLUMNS).limit(0), None
    else:
        found_by = f"change feed of item_embeddings, versions {first + 1} to {now}"
        current = feed.where("NOT gone")
        mine = before.where(before.codebook_id == codebook.codebook_id)
        coded = mine.join(feed.select("item_id"), "item_id", "left_semi")
        states = _states(current, coded, codebook, vq_k)
        counts = _counts(states)
        todo = current.select(*_COLUMNS).join(_wanted(states), "item_id", "left_semi")
        leave = _removed(states, codebook)
    total = before.count()
    new, removed = counts.get("new", 0), counts.get("removed", 0)
    if total - others + new - removed != rows:
        why = f"comparison: the change feed to version {now} does not add up to {rows} vectors"
        return _compare(context, codebook, table, vectors, vq_k, keep_older, why)
    return Plan(
        table=table,
        todo=todo,
        leave=leave,
        before=total,
        new=new,
        changed=counts.get("changed", 0),
        same=rows - new - counts.get("changed", 0),
        removed=removed,
        others=others,
        found_by=found_by,
    )


class _NoFeedError(Exception):
    """Why the change feed cannot be used."""


def _feed_range(
    context: Context,
    codebook: Codebook,
    encoder: str,
    vq_k: int,
    table: TableRef,
    last: Manifest | None,
) -> tuple[int, int]:
    """Versions of item_embeddings that the last published run has read, and that this one reads.

    Raises:
        _NoFeedError: the table is not what that run has left, or was made from something else.
    """
    if last is None:
        raise _NoFeedError("no run has been published")
    if last.outputs.get(TABLE.name) != table.as_dict():
        raise _NoFeedError("semantic_ids is not as the last published run left it")
    wanted = {
        "codebook_id": codebook.codebook_id,
        "codebook_content": codebook.content_hash,
        "encoder_version": encoder,
        "vq_k": vq_k,
    }
    if other := [name for name, value in wanted.items() if last.facts.get(name) != value]:
        raise _NoFeedError(f"the last published run had another {' and '.join(other)}")
    if "older_rows" not in last.facts:
        raise _NoFeedError("the last published run was of an earlier release")
    source, now = last.inputs.get("item_embeddings", {}), context.ref("item_embeddings")
    if source.get("path") != now.path or int(source["version"]) > now.version:
        raise _NoFeedError("the last published run has read another item_embeddings")
    return int(source["version"]), now.version


def _feed(context: Context, encoder: str, first: int, now: int) -> DataFrame | None:
    """Latest state of each item in the change feed: ``_COLUMNS`` and encoder_version as after it,
    and ``gone``. None: no new version.

    Raises:
        _NoFeedError: the table was overwritten in between (its feed then names every item twice),
            or the feed is off or vacuumed away.
    """
    from delta.tables import DeltaTable
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    if now == first:
        return None
    path = context.ref("item_embeddings").path
    commits = DeltaTable.forPath(context.spark, path).history().where(F.col("version") > first)
    replaced = F.col("operation").rlike("REPLACE|RESTORE|CLONE") | (
        F.col("operationParameters")["mode"] == "Overwrite"
    )
    row = commits.where(F.col("version") <= now).agg(
        F.count("*").alias("known"), F.max(F.when(replaced, F.col("version"))).alias("replaced")
    ).first()  # fmt: skip
    assert row is not None
    if row["replaced"] is not None:
        raise _NoFeedError(f"item_embeddings was overwritten in version {row['replaced']}")
    if row["known"] != now - first:
        raise _NoFeedError(f"the log of item_embeddings no longer reaches back to {first + 1}")
    try:
        changes = (
            context.spark.read.format("delta")
            .option("readChangeFeed", "true")
            .option("startingVersion", first + 1)
            .option("endingVersion", now)
            .load(path)
            .where((F.col("encoder_version") == encoder) & (F.col(_CHANGE) != "update_preimage"))
        )
        # In one commit, an item that leaves and comes is there afterwards.
        order = F.struct("_commit_version", F.col(_CHANGE) != "delete")
        state = F.struct(*_COLUMNS, "encoder_version", (F.col(_CHANGE) == "delete").alias("gone"))
        latest = changes.groupBy("item_id").agg(F.max_by(state, order).alias("state"))
        latest.select("state.gone").groupBy("gone").count().collect()  # reads the feed's files
    except (PySparkException, Py4JJavaError) as error:
        why = str(error).strip().splitlines()[0][:160]
        raise _NoFeedError(f"the change feed cannot be read ({why})") from error
    return latest.select("state.*")


def _states(current: DataFrame, coded: DataFrame, codebook: Codebook, vq_k: int) -> DataFrame:
    """(item_id, state) of vectors and rows of semantic_ids: new, removed, same or changed."""
    from pyspark.sql import functions as F

    codes = coded.select(
        "item_id",
        F.struct("encoder_version", "content_hash", F.size("rq"), F.size("vq")).alias("coded"),
    )
    lengths = (F.lit(len(codebook.levels)), F.lit(vq_k))
    wanted = current.select(
        "item_id", F.struct("encoder_version", "content_hash", *lengths).alias("current")
    )
    state = (
        F.when(F.col("coded").isNull(), "new")
        .when(F.col("current").isNull(), "removed")
        .when(F.col("coded") == F.col("current"), "same")
        .otherwise("changed")
    )
    return wanted.join(codes, "item_id", "full_outer").select("item_id", state.alias("state"))


def _counts(states: DataFrame) -> dict[str, int]:
    return {r["state"]: int(r["count"]) for r in states.groupBy("state").count().collect()}


def _wanted(states: DataFrame) -> DataFrame:
    return states.where("state IN ('new', 'changed')").select("item_id")


def _removed(states: DataFrame, codebook: Codebook) -> DataFrame:
    from pyspark.sql import functions as F

    key = F.lit(codebook.codebook_id).alias("codebook_id")
    return states.where("state = 'removed'").select("item_id", key)


def _compare(
    context: Context,
    codebook: Codebook,
    table: TableRef,
    vectors: DataFrame,
    vq_k: int,
    keep_older: bool,
    found_by: str,
) -> Plan:
    """The plan by a full outer join of all vectors with all codes."""
    from pyspark.sql import functions as F

    mine = F.col("codebook_id") == codebook.codebook_id
    before = context.lake.read(table)
    states = _states(vectors, before.where(mine), codebook, vq_k)
    counts = _counts(states)
    rows = before.count()
    others = rows - sum(counts.get(s, 0) for s in ("changed", "same", "removed"))
    leave = _removed(states, codebook)
    if not keep_older and others:
        leave = leave.unionByName(before.where(~mine).select("item_id", "codebook_id"))
    return Plan(
        table=table,
        todo=vectors.select(*_COLUMNS).join(_wanted(states), "item_id", "left_semi"),
        leave=leave,
        before=rows,
        new=counts.get("new", 0),
        changed=counts.get("changed", 0),
        same=counts.get("same", 0),
        removed=counts.get("removed", 0),
        older=0 if keep_older else others,
        others=others,
        found_by=found_by,
    )
