"""Delta tables made from schemas: rules, pins, lineage."""

from __future__ import annotations

import json

import pytest
from delta.tables import DeltaTable

from qarm.errors import InputError, SchemaError
from qarm.lake.tables import check_vectors, conform
from schemas import Table, id_vectors, users
from schemas.table import col

LINEAGE = {"stage": "test", "run_id": "r1"}
VECTORS = "item_idx bigint, model string, vector array<float>"


def _vectors(spark, rows):
    return spark.createDataFrame([(i, "als", v) for i, v in rows], VECTORS)


def test_overwrite_pins_and_carries_lineage(lake, spark) -> None:
    first = lake.overwrite(id_vectors.TABLE, _vectors(spark, [(0, [1.0]), (1, [2.0])]), LINEAGE)
    second = lake.overwrite(id_vectors.TABLE, _vectors(spark, [(0, [3.0])]), LINEAGE)
    assert lake.read(first).count() == 2
    assert lake.read(second).count() == 1
    assert set(lake.live_files(first)).isdisjoint(lake.live_files(second))
    history = DeltaTable.forPath(spark, second.path).history(1).first()
    written = json.loads(history["userMetadata"])
    assert written.pop("commit")
    assert written == LINEAGE


def test_comments_and_not_null_survive_an_overwrite(lake, spark) -> None:
    lake.overwrite(id_vectors.TABLE, _vectors(spark, [(0, [1.0])]), LINEAGE)
    with pytest.raises(SchemaError, match="rule of table id_vectors"):
        lake.overwrite(id_vectors.TABLE, _vectors(spark, [(None, [1.0])]), LINEAGE)
    fields = spark.read.format("delta").load(lake.path("id_vectors")).schema
    assert fields["vector"].metadata["comment"] == "ID embedding, not normalised"


def test_broken_constraint_names_the_rule_and_writes_nothing(lake, spark) -> None:
    good = spark.createDataFrame([("u", 0, "bigint")], "user_id string, user_idx long, s string")
    rows = good.selectExpr(
        "user_id", "user_idx", "timestamp'2020-01-01' first_seen", "s source_type"
    )
    ref = lake.overwrite(users.TABLE, rows, LINEAGE)
    with pytest.raises(SchemaError, match="user_idx_not_negative"):
        lake.overwrite(users.TABLE, rows.selectExpr("* except (user_idx)", "-1L user_idx"), LINEAGE)
    assert lake.version("users") == ref.version


def test_merge_touches_only_what_it_must(lake, spark) -> None:
    lake.overwrite(id_vectors.TABLE, _vectors(spark, [(0, [1.0]), (1, [1.0]), (2, [1.0])]), LINEAGE)
    ref = lake.merge(
        id_vectors.TABLE,
        _vectors(spark, [(1, [5.0]), (2, [1.0]), (3, [9.0])]),
        LINEAGE,
        update_when="t.vector <> s.vector",
        delete_missing_where="t.item_idx = 0",
    )
    rows = {r["item_idx"]: list(r["vector"]) for r in lake.read(ref).collect()}
    assert rows == {1: [5.0], 2: [1.0], 3: [9.0]}
    metrics = DeltaTable.forPath(spark, ref.path).history(1).first()["operationMetrics"]
    assert metrics["numTargetRowsUpdated"] == "1"


def test_deletion_vectors_are_refused(lake, spark) -> None:
    path = lake.path("id_vectors")
    _vectors(spark, [(0, [1.0])]).write.format("delta").option(
        "delta.enableDeletionVectors", "true"
    ).save(path)
    ref = lake.overwrite(id_vectors.TABLE, _vectors(spark, [(0, [1.0])]), LINEAGE)
    with pytest.raises(InputError, match="enableDeletionVectors"):
        lake.live_files(ref)


def test_conform_names_missing_columns_and_wrong_types(spark) -> None:
    df = spark.createDataFrame([(1, "x")], "item_idx int, vector string")
    with pytest.raises(SchemaError, match=r"needs column\(s\) \['model'\]"):
        conform(df, id_vectors.TABLE, "my.parquet")
    with pytest.raises(SchemaError, match="vector of table id_vectors should be array<float>"):
        conform(df.selectExpr("*", "'m' model"), id_vectors.TABLE, "my.parquet")


def test_conform_widens_and_orders(spark) -> None:
    df = spark.sql("SELECT array(1.5D) vector, 'm' model, 1 item_idx, 'x' extra")
    out = conform(df, id_vectors.TABLE, "x")
    assert out.columns == id_vectors.TABLE.column_names
    assert out.schema["vector"].dataType.simpleString() == "array<float>"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, [1.0]), (1, [float("nan")])], "1 vectors with NaN"),
        ([(0, [1.0]), (1, None)], "1 nulls"),
        ([(0, [1.0]), (1, [1.0, 2.0])], "seen 1 to 2"),
    ],
)
def test_bad_vectors(spark, rows, message) -> None:
    with pytest.raises(InputError, match=message):
        check_vectors(_vectors(spark, rows), "vector", "x")


def test_statistics_leave_vectors_out() -> None:
    table = Table(name="t", comment="", columns=(col("a", "int", ""), col("v", "array<float>", "")))
    assert table.all_properties["delta.dataSkippingNumIndexedCols"] == "1"
