"""Tables made from schemas, and those of an earlier or a later release."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from delta.tables import DeltaTable

from qarm.errors import SchemaError
from schemas import TABLES, codebooks, ranking_samples
from schemas.table import col

LINEAGE = {"stage": "test", "run_id": "r1"}


def test_every_schema_creates_with_its_rules(lake) -> None:
    for table in TABLES.values():
        lake.create(table)
        commit = Path(lake.path(table.name)) / "_delta_log" / f"{0:020d}.json"
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        (metadata,) = (action["metaData"] for action in actions if "metaData" in action)
        properties = metadata["configuration"]
        assert properties["delta.enableDeletionVectors"] == "false"
        for name, condition in table.constraints.items():
            assert properties[f"delta.constraints.{name}"] == condition


def test_a_log_without_a_commit_is_made_anew(lake, spark) -> None:
    """A full disk leaves it; Spark can neither read nor create such a table."""
    log = Path(lake.path("users")) / "_delta_log"
    log.mkdir(parents=True)
    (log / ".00000000000000000000.json.1a2b.tmp").write_text("{")
    lake.create(TABLES["users"])
    assert lake.version("users") == 0
    lake.create(TABLES["users"])  # one with a commit stays
    assert lake.version("users") == 0


def test_replaced_when_the_columns_change(lake, spark) -> None:
    lake.create(ranking_samples.table(["positive"]))
    before = lake.version("ranking_samples")
    lake.create(ranking_samples.table(["positive"]))
    assert lake.version("ranking_samples") == before
    lake.create(ranking_samples.table(["positive", "top"]), replace=True)
    assert "label_top" in spark.read.format("delta").load(lake.path("ranking_samples")).columns


def _rows_of(spark, table, n):
    """n rows, equal but for the text and the numbers of the key."""
    values = {
        "string": "cast(id as string)", "bigint": "id", "int": "cast(id as int)",
        "timestamp": "timestamp'2020-01-01'", "array<string>": "array('x')",
    }  # fmt: skip
    columns = [
        f"{values.get(c.type, f'cast(null as {c.type})')} as `{c.name}`" for c in table.columns
    ]
    return spark.range(n).selectExpr(*columns)


MERGED = ["items", "users", "item_features", "item_embeddings", "codebooks", "semantic_ids"]


@pytest.mark.parametrize("name", MERGED)
def test_a_table_of_an_earlier_release_keeps_its_rows(lake, spark, name) -> None:
    """A column is added to each table that is merged into; its rows stay, and have null there."""
    now = replace(
        TABLES[name],
        constraints={},
        columns=tuple(replace(column, nullable=True) for column in TABLES[name].columns),
    )
    later = replace(now, columns=(*now.columns, col("note", "string", "It's new", nullable=True)))
    lake.overwrite(now, _rows_of(spark, now, 3), LINEAGE)
    ref = lake.merge(later, _rows_of(spark, later, 1).limit(0), LINEAGE)
    assert [row["note"] for row in lake.read(ref).collect()] == [None] * 3
    # The other way round, an earlier release does not touch a table that it does not know.
    with pytest.raises(SchemaError, match=r"has columns \['note'\], which this version of qarm"):
        lake.merge(now, _rows_of(spark, now, 1), LINEAGE)
    required = replace(later, columns=(*later.columns, col("must", "string", "")))
    with pytest.raises(SchemaError, match=r"lacks columns \['must'\], which must not be null"):
        lake.create(required)
    other = replace(now, columns=(replace(now.columns[0], type="binary"), *later.columns[1:]))
    with pytest.raises(SchemaError, match=r"of type .*expected .*binary"):
        lake.create(other)
    assert lake.version(name) == ref.version


def test_constraints_of_an_earlier_release_are_renewed(lake, spark) -> None:
    earlier = replace(codebooks.TABLE, constraints={"kind_known": "kind IN ('rq', 'vq')"})
    lake.create(earlier)
    lake.create(codebooks.TABLE)
    version = lake.version("codebooks")
    properties = DeltaTable.forPath(spark, lake.path("codebooks")).detail().first()["properties"]
    for name, condition in codebooks.TABLE.constraints.items():
        assert "".join(properties[f"delta.constraints.{name}"].split()) == "".join(
            condition.split()
        )
    lake.create(codebooks.TABLE)
    assert lake.version("codebooks") == version
