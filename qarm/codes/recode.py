"""What a run of assign-codes has to change: new and changed items are coded, others stay.

The change feed of ``item_embeddings``, from the version that the last published run has read to the
current one, names the items that may differ; only these are compared. Without such a feed (see
``_feed``) all vectors are compared with all codes, which gives the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qarm.codes.codebook import Codebook
from qarm.lake.tables import Lake, TableRef
from schemas import semantic_ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.lake.manifest import Manifest

TABLE = semantic_ids.TABLE
_COLUMNS = ("item_id", "item_idx", "content_hash", "vector")
_CHANGE = "_change_type"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Differences between ``semantic_ids`` and the vectors, counted."""

    table: TableRef | None
    """The current version of the table; None: there is none yet."""
    todo: DataFrame
    """Vectors to code: (item_id, item_idx, content_hash, vector)."""
    leave: DataFrame | None
    """Keys of rows to delete; None: none are known."""
    before: int = 0
    """Rows in the table, of any codebook."""
    new: int = 0
    changed: int = 0
    """Items whose content, encoder or length of code has changed."""
    same: int = 0
    removed: int = 0
    """Items that no longer have a vector."""
    older: int = 0
    """Rows of other codebooks; all leave."""
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
        """Whether no row of the table stays: it is overwritten, without a MERGE."""
        return self.before == self.changed + self.removed + self.older


@dataclass(frozen=True, kw_only=True)
class Target:
    """What ``semantic_ids`` should hold."""

    codebook: Codebook
    encoder: str
    """encoder_version of the vectors that are coded."""
    vectors: DataFrame
    """Rows of item_embeddings of that encoder."""
    rows: int
    """Number of ``vectors``."""
    vq_k: int
    """Length of a VQ code."""
    resolved: bool = False
    """Whether each row needs rq_resolved; those without it are coded again."""

    @property
    def facts(self) -> dict[str, str | int]:
        """What a published run must have had in common for its rows to stay."""
        return {
            "codebook_id": self.codebook.codebook_id,
            "codebook_content": self.codebook.content_hash,
            "encoder_version": self.encoder,
            "vq_k": self.vq_k,
        }


def plan_recode(lake: Lake, target: Target, embeddings: TableRef, last: Manifest | None) -> Plan:
    """Differences between ``semantic_ids`` and the vectors: item, content, encoder, code length.

    Args:
        lake: with the table semantic_ids, if there is one.
        target: what the table should hold.
        embeddings: the version of item_embeddings that ``target.vectors`` are of.
        last: the last published run of assign-codes.
    """
    version = lake.version(TABLE.name)
    if version < 0:
        todo = target.vectors.select(*_COLUMNS)
        return Plan(table=None, todo=todo, leave=None, new=target.rows)
    table = TableRef(TABLE.name, lake.path(TABLE.name), version)
    try:
        first = _first_version(target, table, embeddings, last)
        feed = _feed(lake, target.encoder, embeddings, first)
    except _NoFeedError as error:
        return _compare(lake, table, target, f"comparison: {error}")
    before = lake.read(table)
    if feed is None:
        found_by, counts = "no new version of item_embeddings", {}
        todo, leave = target.vectors.select(*_COLUMNS).limit(0), None
    else:
        now = embeddings.version
        found_by = f"change feed of item_embeddings, versions {first + 1} to {now}"
        current = feed.where("NOT gone")
        mine = before.where(before.codebook_id == target.codebook.codebook_id)
        coded = mine.join(feed.select("item_id"), "item_id", "left_semi")
        states = _states(current, coded, target)
        counts = _counts(states)
        todo = current.select(*_COLUMNS).join(_wanted(states), "item_id", "left_semi")
        leave = _removed(states, target.codebook)
    total = before.count()
    new, removed = counts.get("new", 0), counts.get("removed", 0)
    if total + new - removed != target.rows:
        why = f"the change feed to version {embeddings.version} does not add up to {target.rows}"
        return _compare(lake, table, target, f"comparison: {why} vectors")
    return Plan(
        table=table,
        todo=todo,
        leave=leave,
        before=total,
        new=new,
        changed=counts.get("changed", 0),
        same=target.rows - new - counts.get("changed", 0),
        removed=removed,
        found_by=found_by,
    )


class _NoFeedError(Exception):
    """Why the change feed cannot be used."""


def _first_version(
    target: Target, table: TableRef, embeddings: TableRef, last: Manifest | None
) -> int:
    """Version of item_embeddings that the last published run has read.

    Raises:
        _NoFeedError: the table is not what that run has left, or was made from something else.
    """
    if last is None:
        raise _NoFeedError("no run has been published")
    if last.outputs.get(TABLE.name) != table.as_dict():
        raise _NoFeedError("semantic_ids is not as the last published run left it")
    if other := [name for name, value in target.facts.items() if last.facts.get(name) != value]:
        raise _NoFeedError(f"the last published run had another {' and '.join(other)}")
    if last.facts.get("older_rows"):  # written by release 0.1 with keep_old_codes
        raise _NoFeedError("rows of other codebooks have to leave")
    source = last.inputs.get("item_embeddings", {})
    if source.get("path") != embeddings.path or int(source["version"]) > embeddings.version:
        raise _NoFeedError("the last published run has read another item_embeddings")
    if target.resolved and not last.facts.get("resolved"):
        raise _NoFeedError("the last published run did not resolve collisions")
    return int(source["version"])


def _feed(lake: Lake, encoder: str, embeddings: TableRef, first: int) -> DataFrame | None:
    """Latest state of each item in the change feed after version ``first``.

    Returns:
        ``_COLUMNS`` and encoder_version as after the last change, and ``gone``; None: there is no
        new version.

    Raises:
        _NoFeedError: the table was overwritten in between (its feed then names every item twice),
            or the feed is off or vacuumed away.
    """
    from delta.tables import DeltaTable
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    now = embeddings.version
    if now == first:
        return None
    path = embeddings.path
    commits = DeltaTable.forPath(lake.spark, path).history().where(F.col("version") > first)
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
            lake.spark.read.format("delta")
            .option("readChangeFeed", "true")
            .option("startingVersion", first + 1)
            .option("endingVersion", now)
            .load(path)
            .where((F.col("encoder_version") == encoder) & (F.col(_CHANGE) != "update_preimage"))
        )
        # An item that one commit deletes and inserts exists afterwards.
        order = F.struct("_commit_version", F.col(_CHANGE) != "delete")
        state = F.struct(*_COLUMNS, "encoder_version", (F.col(_CHANGE) == "delete").alias("gone"))
        latest = changes.groupBy("item_id").agg(F.max_by(state, order).alias("state"))
        latest.select("state.gone").groupBy("gone").count().collect()  # reads the feed's files
    except (PySparkException, Py4JJavaError) as error:
        why = str(error).strip().splitlines()[0][:160]
        raise _NoFeedError(f"the change feed cannot be read ({why})") from error
    return latest.select("state.*")


def _states(current: DataFrame, coded: DataFrame, target: Target) -> DataFrame:
    """(item_id, state) of vectors and rows of semantic_ids: new, removed, same or changed."""
    from pyspark.sql import functions as F

    lacks = F.col("rq_resolved").isNull() & F.lit(target.resolved)
    codes = coded.select(
        "item_id",
        F.struct("encoder_version", "content_hash", F.size("rq"), F.size("vq"), lacks).alias(
            "coded"
        ),
    )
    others = (F.lit(len(target.codebook.levels)), F.lit(target.vq_k), F.lit(False))
    wanted = current.select(
        "item_id", F.struct("encoder_version", "content_hash", *others).alias("current")
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


def _compare(lake: Lake, table: TableRef, target: Target, found_by: str) -> Plan:
    """The plan by a full outer join of all vectors with all codes."""
    from pyspark.sql import functions as F

    mine = F.col("codebook_id") == target.codebook.codebook_id
    before = lake.read(table)
    states = _states(target.vectors, before.where(mine), target)
    counts = _counts(states)
    rows = before.count()
    older = rows - sum(counts.get(s, 0) for s in ("changed", "same", "removed"))
    leave = _removed(states, target.codebook)
    if older:
        leave = leave.unionByName(before.where(~mine).select("item_id", "codebook_id"))
    return Plan(
        table=table,
        todo=target.vectors.select(*_COLUMNS).join(_wanted(states), "item_id", "left_semi"),
        leave=leave,
        before=rows,
        new=counts.get("new", 0),
        changed=counts.get("changed", 0),
        same=counts.get("same", 0),
        removed=counts.get("removed", 0),
        older=older,
        found_by=found_by,
    )
