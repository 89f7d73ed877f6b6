"""Files of a pinned table read by tasks: every row once, however files are cut and dealt."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qarm.errors import InputError
from qarm.lake import scan
from qarm.lake.scan import Piece, deal_pieces, map_files, pieces_of, read_pieces
from qarm.lake.tables import Lake, TableRef


@given(
    sizes=st.lists(st.integers(0, 900 << 20), max_size=12),
    slots=st.integers(1, 9),
)
@example(sizes=[0, 0], slots=2)
def test_pieces_are_dealt_once_and_evenly(sizes: list[int], slots: int) -> None:
    pieces = pieces_of([(f"f{n}", size) for n, size in enumerate(sizes)])
    tasks = deal_pieces(pieces, slots)
    assert sorted(p for task in tasks for p in task) == sorted(pieces)
    assert all(tasks)
    assert len(tasks) >= min(slots, len(pieces))
    loads = [sum(p.size for p in task) for task in tasks]
    largest = max((p.size for p in pieces), default=0)
    assert max(loads, default=0) <= min(loads, default=0) + largest


@pytest.mark.parametrize("of", [1, 2, 3, 7, 10])
def test_pieces_of_a_file_share_its_row_groups_out(tmp_path, of: int) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": range(50), "y": range(50)}), path, row_group_size=7)
    read = [
        value
        for part in range(of)
        for batch in read_pieces([Piece(path, part, of, 1)], ["x"])
        for value in batch["x"].to_pylist()
    ]
    assert read == list(range(50))


@pytest.mark.spark
def test_a_pinned_version_of_several_files(spark, tmp_path, monkeypatch) -> None:
    lake = Lake(spark, str(tmp_path / "a lake of 100%"))
    path = lake.path("numbers")
    rows = spark.range(1000).selectExpr("id AS n", "'x' AS left_out")
    rows.repartition(5).write.format("delta").save(path)
    spark.range(9).selectExpr("id AS n", "'y' AS left_out").write.format("delta").mode(
        "append"
    ).save(path)
    monkeypatch.setattr(scan, "_TASK_BYTES", 1500)
    found = map_files(lake, TableRef("numbers", path, 0), ["n"], lambda batches: batches, "n long")
    assert found.rdd.getNumPartitions() > 2
    assert sorted(row["n"] for row in found.collect()) == list(range(1000))
    later = map_files(lake, TableRef("numbers", path, 1), ["n"], lambda batches: batches, "n long")
    assert later.count() == 1009
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableDeletionVectors'=true)")
    spark.sql(f"DELETE FROM delta.`{path}` WHERE n = 3")
    with pytest.raises(InputError, match="deletion vectors are on"):
        map_files(lake, TableRef("numbers", path, 3), ["n"], lambda batches: batches, "n long")
