"""What is trained on is the pinned version of a Delta table, or nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from qarm.config.training import Loader
from qarm.errors import InputError
from qarm.lake.tables import Lake, TableRef
from qarm.training.loader import WEIGHT, EpochLoader
from schemas import TABLES

OFF = {"delta.enableDeletionVectors": "false"}
SET = "ALTER TABLE {{table}} SET TBLPROPERTIES ('delta.{}' = '{}')"


def write(lake: Lake, name: str, ids: range, mode: str = "error", **properties: str) -> TableRef:
    """Rows (id, twice id) in three files."""
    rows = lake.spark.range(ids.start, ids.stop, 1, 3).selectExpr("id", "2 * id AS twice")
    writer = rows.write.format("delta").mode(mode)
    for key, value in properties.items():
        writer = writer.option(key, value)
    writer.save(lake.path(name))
    return TableRef(name, lake.path(name), lake.version(name))


def run(lake: Lake, ref: TableRef, statement: str) -> TableRef:
    """The table after a statement, in which {table} stands for it."""
    lake.spark.sql(statement.format(table=f"delta.`{ref.path}`"))
    return TableRef(ref.name, ref.path, lake.version(ref.name))


def rows(lake: Lake, ref: TableRef, world: int = 2) -> Counter[tuple[int, int]]:
    """What the ranks read in an epoch, padding left out, and how often."""
    files = lake.live_files(ref)
    found: Counter[tuple[int, int]] = Counter()
    for rank in range(world):
        loader = EpochLoader(
            files,
            ["id", "twice"],
            Loader(shards=world),
            batch_size=7,
            rank=rank,
            world=world,
            seed=1,
        )
        for batch in loader.epoch(0):
            real = batch[WEIGHT] > 0
            found.update(
                zip(batch["id"][real].tolist(), batch["twice"][real].tolist(), strict=True)
            )
    return found


def expected(ids: range) -> Counter[tuple[int, int]]:
    """Each row once."""
    return Counter((i, 2 * i) for i in ids)


def test_a_pinned_version_outlives_delete_append_and_overwrite(lake):
    first = write(lake, "t", range(50), **OFF)
    deleted = run(lake, first, "DELETE FROM {table} WHERE id < 30")
    appended = write(lake, "t", range(50, 60), "append")
    replaced = write(lake, "t", range(90, 100), "overwrite")
    assert rows(lake, first) == expected(range(50))
    assert rows(lake, deleted) == expected(range(30, 50))
    assert rows(lake, appended) == expected(range(30, 60))
    assert rows(lake, replaced) == expected(range(90, 100))


@pytest.mark.fire
def test_optimize_and_vacuum_between_two_epochs_change_nothing(lake):
    """Vacuum keeps what left the table within the retention that our tables have."""
    ref = write(lake, "t", range(50), **TABLES["ranking_samples"].all_properties)
    files = lake.live_files(ref)
    assert len(files) == 3
    run(lake, ref, "OPTIMIZE {table}")
    assert len(lake.live_files(TableRef("t", ref.path, lake.version("t")))) == 1
    run(lake, ref, "VACUUM {table}")
    assert lake.live_files(ref) == files
    assert rows(lake, ref) == expected(range(50))


def test_deletion_vectors_are_refused_until_the_table_is_fixed_as_the_message_says(lake):
    plain = write(lake, "t", range(50), **OFF)
    run(
        lake,
        plain,
        SET.format("enableDeletionVectors", "true"),
    )
    with_vectors = run(lake, plain, "DELETE FROM {table} WHERE id % 10 = 0")
    with pytest.raises(InputError, match=r"at version 2: deletion vectors .*\(3 files have one\)"):
        lake.live_files(with_vectors)
    # The property alone does not bring the rows' files up to date ...
    switched = run(
        lake,
        plain,
        SET.format("enableDeletionVectors", "false"),
    )
    with pytest.raises(InputError, match=r"REORG TABLE delta.* APPLY \(PURGE\)"):
        lake.live_files(switched)
    # ... and what is done later does not change the version that is pinned.
    purged = run(lake, plain, "REORG TABLE {table} APPLY (PURGE)")
    kept = Counter({(i, 2 * i): 1 for i in range(50) if i % 10})
    assert rows(lake, purged, world=1) == kept  # purging has put the rows into one file
    assert rows(lake, plain) == expected(range(50))
    with pytest.raises(InputError, match="deletion vectors"):
        lake.live_files(with_vectors)


def test_column_mapping_is_refused_until_the_table_is_fixed_as_the_message_says(lake):
    by_name = write(lake, "t", range(20), **OFF, **{"delta.columnMapping.mode": "name"})
    renamed = run(lake, by_name, "ALTER TABLE {table} RENAME COLUMN twice TO double")
    with pytest.raises(InputError, match=r"columnMapping.mode is 'name'.* Rewrite it by ALTER"):
        lake.live_files(renamed)
    run(lake, renamed, "ALTER TABLE {table} RENAME COLUMN double TO twice")
    fixed = run(lake, renamed, SET.format("columnMapping.mode", "none"))
    assert rows(lake, fixed) == expected(range(20))
    with pytest.raises(InputError, match="columnMapping"):
        lake.live_files(renamed)
