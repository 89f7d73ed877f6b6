"""Files of every format and their faults."""

from __future__ import annotations

import gzip
from datetime import datetime

import pyarrow as pa
import pytest
from pyarrow import parquet
from pyspark.sql import functions as F

from qarm.errors import InputError
from qarm.ingest import sources

pytestmark = pytest.mark.spark


def opened(spark, *uris, **options):
    return sources.open_files(spark, [str(u) for u in uris], field="log.path", **options)


def test_nanosecond_timestamps_become_microseconds_and_longs_stay(spark, tmp_path) -> None:
    nanos = [1_600_000_000_123_456_789, -1, None]
    table = pa.table(
        {
            "aware": pa.array(nanos, pa.timestamp("ns", tz="UTC")),
            "naive": pa.array(nanos, pa.timestamp("ns")),
            "long": pa.array(nanos, pa.int64()),
        }
    )
    parquet.write_table(table, tmp_path / "a b.parquet", version="2.6")
    df = opened(spark, tmp_path / "a b.parquet")
    kinds = {f.name: f.dataType.simpleString() for f in df.schema}
    assert (kinds["aware"], kinds["naive"], kinds["long"]) == ("timestamp", "timestamp", "bigint")
    micros = df.select(F.unix_micros("aware").alias("a"), F.unix_micros("naive").alias("n"))
    expected = [1_600_000_000_123_456, -1, None]
    assert [tuple(r) for r in micros.collect()] == [(m, m) for m in expected]


def test_csv_ids_stay_text_and_numbers_become_numbers(spark, tmp_path) -> None:
    text = "id;score;note\n007;1;x\n017850.0;2;\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    options = {"csv_options": {"sep": ";"}}
    df = opened(spark, tmp_path / "a.csv.gz", text_columns=["id"], **options)
    assert [tuple(r)[:3] for r in df.collect()] == [("007", 1, "x"), ("017850.0", 2, None)]
    assert opened(spark, tmp_path / "a.csv.gz", **options).schema["score"].dataType.typeName() == (
        "string"
    )


def test_csv_follows_rfc_4180_unless_told_otherwise(spark, tmp_path) -> None:
    text = 'id,title,n\r\n1,"a ""b"", c\r\nd",3\r\n2,"ends \\",4\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    expected = [("1", 'a "b", c\nd', 3), ("2", "ends \\", 4)]
    df = opened(spark, tmp_path / "a.csv", text_columns=["id"])
    assert [tuple(r)[:3] for r in df.collect()] == expected
    (tmp_path / "b.csv").write_text('id,title\n1,"a \\"b\\", c"\n')
    options = {"csv_options": {"escape": "\\"}}
    assert opened(spark, tmp_path / "b.csv", **options).first()["title"] == 'a "b", c'
    (tmp_path / "c.csv").write_text("id,title\n1,'it''s, so'\n")
    options = {"csv_options": {"quote": "'"}}
    assert opened(spark, tmp_path / "c.csv", **options).first()["title"] == "it's, so"


def test_malformed_csv_rows_are_marked_and_spoil_no_type(spark, tmp_path) -> None:
    lines = ["id,title,at,n", "1,x,2024-01-01 00:00:00,3", "2,a,b,2024-01-01 00:00:00,4", "3,y"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    df = opened(spark, tmp_path / "a.csv", text_columns=["id"])
    assert [f.dataType.simpleString() for f in df.schema][:4] == [
        *("string", "string", "timestamp", "int")
    ]
    found = df.drop(sources.FILE)
    assert [tuple(r) for r in found.collect()] == [
        ("1", "x", datetime(2024, 1, 1), 3, None),
        (None, None, None, None, lines[2]),
        (None, None, None, None, lines[3]),
    ]
    assert df.count() == 3
    assert [r[0] for r in df.select("id").collect()] == ["1", None, None]  # pruned to one column


def test_open_quote_does_not_swallow_a_large_file(spark, tmp_path) -> None:
    (tmp_path / "a.csv").write_text('id,title\n1,"x\n' + "2,bbbbbbb\n" * 120_000)
    with pytest.raises(InputError, match=r"a\.csv cannot be read .* quote .* log\.csv_options"):
        opened(spark, tmp_path / "a.csv", text_columns=["id"])


def test_files_of_types_that_do_not_mix(spark, tmp_path) -> None:
    (tmp_path / "a.csv").write_text("id,n\nx,1\n")
    (tmp_path / "b.csv").write_text("id,n\ny,2.5\n")
    (tmp_path / "c.csv").write_text("id,n\nz,yes\n")
    both = opened(spark, tmp_path / "a.csv", tmp_path / "b.csv", text_columns=["id"])
    assert [r["n"] for r in both.orderBy("id").collect()] == [1.0, 2.5]
    with pytest.raises(InputError, match=r"'n' is of type int in .*a\.csv, of type string in .*c"):
        opened(spark, tmp_path / "a.csv", tmp_path / "c.csv", text_columns=["id"])


def test_json_lines_and_delta(spark, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "x", "tags": ["p", "q"]}\n')
    df = opened(spark, tmp_path / "a.jsonl")
    df.drop(sources.FILE).write.format("delta").save(str(tmp_path / "table"))
    again = opened(spark, tmp_path / "table")
    assert again.drop(sources.FILE).collect() == df.drop(sources.FILE).collect()
    assert sources.detect_format(str(tmp_path / "table"), "log.path") == "delta"


def test_faults_name_the_file_and_the_setting(spark, tmp_path) -> None:
    with pytest.raises(InputError, match=r"log\.path: no file at .*none\.csv"):
        opened(spark, tmp_path / "none.csv")
    (tmp_path / "data.bin").write_text("x")
    with pytest.raises(InputError, match=r"set log\.format"):
        opened(spark, tmp_path / "data.bin")
    (tmp_path / "broken.parquet").write_text("no parquet at all")
    with pytest.raises(InputError, match=r"broken\.parquet cannot be read as parquet"):
        opened(spark, tmp_path / "broken.parquet")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.csv").write_text("a,c\n1,2\n")
    with pytest.raises(InputError, match="same columns"):
        opened(spark, tmp_path / "a.csv", tmp_path / "b.csv")
    with pytest.raises(InputError, match="name at least one file"):
        opened(spark)


def test_required_columns(spark) -> None:
    df = spark.createDataFrame([(1, 2)], "user_id int, `my.item` int")
    sources.require_columns(df, {"log.item": "my.item"}, "x.csv")
    assert df.select(sources.column("my.item")).first()[0] == 2
    with pytest.raises(InputError) as caught:
        sources.require_columns(df, {"log.user": "userid", "log.time": "when"}, "x.csv")
    message = str(caught.value)
    assert "x.csv" in message
    assert "log.user = 'userid' (did you mean 'user_id'?)" in message
    assert "log.time = 'when'" in message
    assert "['user_id', 'my.item']" in message


def test_timestamps_of_spark_itself(spark, tmp_path) -> None:
    row = [(datetime(2024, 1, 1, 12),)]
    spark.createDataFrame(row, "ts timestamp").write.parquet(str(tmp_path / "spark"))
    assert opened(spark, tmp_path / "spark").first()[0] == datetime(2024, 1, 1, 12)
