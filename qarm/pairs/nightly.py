"""The frame of all incremental miners: recount the keys that changed since the last run.

A miner cuts its work into keys (an item, a day, a user and day) and keeps the rows of each key in
scratch tables. A key's fingerprint covers everything that its rows depend on. A run compares the
fingerprints with those in the ledger, recounts the keys that differ, and merges their rows. New
days, late events, erased users, backfills and changed settings are all the same case, and the
result equals that of mining everything at once.

Delta has no commit across tables, so a run makes its commits in this order:

1. ledger: the fingerprints of all keys that are about to change or leave become null;
2. scratch tables: the new rows of those keys replace the old ones, one commit per table;
3. ledger: the changed keys get their fingerprints, the keys that left are deleted.

Hence, whenever a run is killed, each key that has rows in a scratch table is in the ledger, and
its fingerprint, unless null, is that of its rows. The next run finds the null fingerprints, and
recounts those keys if they still exist (for an earlier ``--as-of``, they may not), else deletes
their rows. A run without changes writes no commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from qarm.config import fingerprint
from qarm.lake.counting import count_rows
from qarm.lake.tables import Lake, TableRef
from qarm.pairs.mined import Keep
from qarm.pairs.scratch import LEDGER
from schemas.table import Table

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_KEY = "__key"


class Recounted(NamedTuple):
    """What a miner made of the changed keys."""

    tables: tuple[DataFrame, ...]
    """Rows of each scratch table, in the order of ``Miner.tables``."""
    tally: dict[str, int]
    """Counts for the ledgers of the stage."""


#: The changed keys (columns of ``Miner.key``, at least one row) -> their rows.
Recount = Callable[["DataFrame"], Recounted]


@dataclass(frozen=True, kw_only=True)
class Miner:
    """An incremental miner: its keys and its tables."""

    name: str
    """Name of the pair source; partition of the ledger."""
    key: tuple[str, ...]
    """Columns of the key; all scratch tables have them."""
    tables: tuple[Table, ...]


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Where incremental miners keep their tables."""

    lake: Lake
    lineage: Mapping[str, Any]
    """Goes into every commit."""
    code_version: str
    vectors: Mapping[str, Any] = field(default_factory=dict)
    """Version of the ID vectors."""

    def mark(self, **parts: Any) -> str:
        """Hash of the code and of ``parts``: what all fingerprints of a miner depend on."""
        return fingerprint({"code": self.code_version, **parts})

    def latest(self, table: Table) -> TableRef:
        """The latest version of a scratch table, which is created if it does not exist.

        One with other columns starts anew: the code that made it has changed, and with it the
        fingerprints of all keys.
        """
        self.lake.create(table, replace=True)
        version = self.lake.version(table.name)
        return TableRef(table.name, self.lake.path(table.name), version)


class Night(NamedTuple):
    """What a run did to a miner's tables."""

    tables: tuple[DataFrame, ...]
    """The scratch tables, up to date."""
    kept: tuple[DataFrame, ...]
    """Their rows of unchanged keys."""
    changed: DataFrame
    """The keys that were recounted."""
    recounted: int
    """Number of keys that were recounted."""
    left: int
    """Number of keys that left."""
    tally: dict[str, int]
    """As the miner returned it; empty where no key changed."""
    refs: dict[str, TableRef]
    """Versions of the scratch tables and of the ledger."""

    @property
    def facts(self) -> dict[str, int]:
        """For summary.json."""
        return {"keys_recounted": self.recounted, "keys_left": self.left}


def update(scratch: Scratch, miner: Miner, now: DataFrame, recount: Recount, keep: Keep) -> Night:
    """Bring a miner's scratch tables up to date.

    Args:
        scratch: the lake, and what goes into commits.
        miner: its keys and tables.
        now: one row per key that exists now: the columns of the key, and fingerprint (bigint, never
            null), a hash of everything that the key's rows depend on.
        recount: makes the rows of changed keys.
        keep: keeps frames that are read more than once.
    """
    from pyspark.sql import functions as F

    ledger = scratch.latest(LEDGER)
    before = keep(
        scratch.lake.read(ledger)
        .where(F.col("miner") == miner.name)
        .select(F.col("key").alias(_KEY), "fingerprint")
    )
    now = keep(now.select(*miner.key, "fingerprint").withColumn(_KEY, _text(miner)))
    changed = keep(now.join(before, [_KEY, "fingerprint"], "left_anti"))
    gone = keep(before.join(now, _KEY, "left_anti").select(_KEY))
    leaving = keep(changed.select(_KEY).unionByName(gone))
    counts = count_rows({"changed": changed, "gone": gone})
    recounted, left = counts["changed"], counts["gone"]
    refs = {table.name: scratch.latest(table) for table in miner.tables}
    old = {
        name: scratch.lake.read(ref).withColumn(_KEY, _text(miner)) for name, ref in refs.items()
    }
    kept = tuple(rows.join(leaving, _KEY, "left_anti").drop(_KEY) for rows in old.values())
    keys = changed.select(*miner.key)
    tally: dict[str, int] = {}
    if recounted or left:
        if ledger.version:  # otherwise it has no fingerprint that a killed run could leave behind
            nothing = F.lit(None).cast("bigint")
            _write_ledger(scratch, miner, leaving.withColumn("fingerprint", nothing))
        new = Recounted(tuple(rows.limit(0) for rows in kept), {})
        if recounted:
            new = recount(keys)
        tally = new.tally
        for table, rows in zip(miner.tables, new.tables, strict=True):
            rows = keep(rows.select(*table.column_names))
            replaced = old[table.name].join(leaving, _KEY, "left_semi").select(*table.key)
            refs[table.name] = scratch.lake.merge(
                table,
                rows,
                scratch.lineage,
                update_when=_differs(table),
                leave=replaced.join(rows, list(table.key), "left_anti"),
            )
        ledger = _write_ledger(scratch, miner, changed, leave=gone)
    tables = tuple(scratch.lake.read(refs[table.name]) for table in miner.tables)
    refs[LEDGER.name] = ledger
    return Night(tables, kept, keys, recounted, left, tally, refs)


def _write_ledger(
    scratch: Scratch, miner: Miner, rows: DataFrame, leave: DataFrame | None = None
) -> TableRef:
    """Set the fingerprints of ``rows``; delete the keys of ``leave``."""
    from pyspark.sql import functions as F

    def named(df: DataFrame) -> DataFrame:
        return df.withColumnRenamed(_KEY, "key").withColumn("miner", F.lit(miner.name))

    return scratch.lake.merge(
        LEDGER,
        named(rows.select(_KEY, "fingerprint")),
        scratch.lineage,
        update_when="NOT (s.fingerprint <=> t.fingerprint)",
        leave=None if leave is None else named(leave),
        within=f"t.miner = '{miner.name}'",
    )


def _text(miner: Miner) -> Column:
    """The key as one text."""
    from pyspark.sql import functions as F

    return F.concat_ws("/", *(F.col(name).cast("string") for name in miner.key))


def _differs(table: Table) -> str:
    """SQL: a row's values differ."""
    values = [name for name in table.column_names if name not in table.key]
    return " OR ".join(f"NOT (s.{name} <=> t.{name})" for name in values)
