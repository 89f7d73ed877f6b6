"""Heads of files: what each kind of wrong file is called, and files of one folder that differ."""

from __future__ import annotations

import gzip
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from qarm.errors import InputError
from qarm.ingest import heads
from qarm.ingest.file_formats import detect_format, readable_files

LINE = "user_id,item_id,ts\nu,i,1\n"


def _check(folder: Path, kind: str, spark=None, **options: str) -> None:
    heads.check_heads(spark, readable_files(str(folder), "log.path"), kind, "log.path", options)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", "csv", "is empty"),
        (b"", "jsonl", "is empty"),
        (b"", "parquet", r"is empty \(0 bytes\)"),
        (LINE.encode("utf-16"), "csv", "looks like UTF-16"),
        (LINE.encode("utf-16-le"), "csv", "looks like UTF-16"),
        (b"PK\x03\x04rest", "csv", "zip archive; unpack it"),
        (gzip.compress(LINE.encode(), mtime=0), "csv", r"gzip; let its name end in \.gz"),
        (b"\x28\xb5\x2f\xfdrest", "jsonl", "zstd, which Spark cannot read"),
        (b"a,b,a\n1,2,3\n", "csv", "column 'a' and column 'a' .columns 1 and 3"),
        (b"rating,Rating\n1,2\n", "csv", "column 'rating' and column 'Rating'"),
        (b'\n [\n {"a": 1}\n]', "jsonl", "JSON array; expected JSON lines"),
        (b"no parquet at all", "parquet", "does not begin with PAR1"),
        (b"PAR1 and then cut", "parquet", "17 bytes do not end with PAR1, so that it is cut short"),
        (b"PAR1 garbage in the footer PAR1", "parquet", "cannot be read as parquet"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, content, kind, words) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=rf"^log\.path: {tmp_path}/x .*{words}"):
        _check(tmp_path, kind)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (",user_id,item_id\n0,u,i\n", {}),  # the index of pandas
        ("\ufeffuser_id,item_id\nu,i\n", {}),
        ("u,u,u\n", {"header": "false"}),
        ("u,u,u\n", {"enforceSchema": "true"}),
        ("user_id,item_id\nu\x00,i\n", {"encoding": "UTF-8"}),
        ("user_id,item_id\nu\x00x,i and more\n", {}),  # one NUL is no UTF-16
        (",".join(f"f{n}" for n in range(20_000)), {}),  # the header does not end in what is read
        ("user_id,item_id\nu,i\n", {"encoding": "x-windows-949"}),  # of Java alone
        ("user_id;item_id\nu;i\n", {"sep": ";"}),
        ("user_id||item_id||user\n", {"sep": "||"}),
        ("user_id,item_id\nü,i\n".encode("latin-1").decode("latin-1"), {"encoding": "ISO-8859-1"}),
    ],
)
def test_files_that_can_be_read(tmp_path, text, options) -> None:
    (tmp_path / "x.csv").write_text(text)
    lower = {name.lower(): value for name, value in options.items()}
    assert heads.read_head(str(tmp_path / "x.csv"), "csv", lower).problem is None
    (tmp_path / "empty.csv").write_text("")  # as Spark writes a part without rows
    assert heads.read_head(str(tmp_path / "empty.csv"), "csv", lower).empty
    _check(tmp_path, "csv", **options)


def test_marks_and_cases_of_headers_make_no_difference(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id\n")
    (tmp_path / "b.csv").write_text("\ufeffUser_ID,item_id\n")
    marked = heads.read_head(str(tmp_path / "b.csv"), "csv", {})
    assert marked.columns == (("User_ID", ""), ("item_id", ""))
    _check(tmp_path, "csv")
    _check(tmp_path, "csv", encoding="UTF-8")


def test_packed_files_that_are_damaged_or_not_read(tmp_path) -> None:
    whole = gzip.compress(LINE.encode() * 1000)
    (tmp_path / "a.csv.gz").write_bytes(whole[:40] + b"\xff" * 9 + whole[49:])
    with pytest.raises(InputError, match=r"a\.csv\.gz cannot be unpacked"):
        _check(tmp_path, "csv")
    (tmp_path / "a.csv.gz").unlink()
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as archive:
        archive.writestr("log.csv", LINE)
    with pytest.raises(InputError, match=r"log\.zip is a zip archive"):
        _check(tmp_path, "csv")


def test_csv_files_of_one_folder_have_one_header(tmp_path) -> None:
    (tmp_path / "a.csv").write_text(LINE)
    (tmp_path / "b.csv").write_text("u,i,2\n")  # by `split -l`
    with pytest.raises(InputError, match=r"columns as .*a\.csv; .*b\.csv lacks \['user_id'"):
        _check(tmp_path, "csv")


def test_parquet_files_of_one_folder_have_one_schema(tmp_path) -> None:
    def write(name: str, **columns: object) -> None:
        parquet.write_table(pa.table(columns), tmp_path / name, version="2.6")

    write("a.parquet", user=["u"], rating=[1])
    write("b.parquet", rating=[2], user=pa.array(["v"]).dictionary_encode())
    _check(tmp_path, "parquet")
    write("c.parquet", user=["w"])
    with pytest.raises(InputError, match=r"c\.parquet lacks \['rating'\]"):
        _check(tmp_path, "parquet")
    write("c.parquet", user=["w"], rating=["3"])
    with pytest.raises(InputError, match=r"'rating' is of type int64 in .*string in .*c\.parquet"):
        _check(tmp_path, "parquet")


def test_types_that_spark_does_not_tell_apart(tmp_path) -> None:
    """As Spark and pandas write the same structs."""
    spark = pa.struct([pa.field("a", pa.int64()), pa.field("b", pa.large_string())])
    pandas = pa.struct([pa.field("b", pa.string()), pa.field("a", pa.int64(), nullable=False)])
    for name, kind in (("a", spark), ("b", pandas)):
        column = pa.array([{"a": 1, "b": "x"}], kind)
        table = pa.table({"s": column, "l": pa.array([["x"]], pa.large_list(pa.string()))})
        parquet.write_table(table, tmp_path / f"{name}.parquet", store_schema=name == "a")
    a, b = (heads.read_head(str(tmp_path / f"{name}.parquet"), "parquet", {}) for name in "ab")
    assert a.columns == b.columns
    assert a.columns == (("s", "struct<a: int64, b: string>"), ("l", "list<string>"))
    _check(tmp_path, "parquet")


def test_nanoseconds_beside_microseconds(tmp_path) -> None:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    for unit in ("us", "ms"):
        column = pa.array([now], pa.timestamp(unit, "UTC"))
        parquet.write_table(pa.table({"ts": column}), tmp_path / f"{unit}.parquet", version="2.6")
    _check(tmp_path, "parquet")  # Spark reads both as microseconds
    column = pa.array([now], pa.timestamp("ns", "UTC"))
    parquet.write_table(pa.table({"ts": column}), tmp_path / "ns.parquet", version="2.6")
    with pytest.raises(InputError, match=r"timestamp\[us, UTC\].*timestamp\[ns, UTC\]|ns.*us"):
        _check(tmp_path, "parquet")


def test_half_precision_is_named(tmp_path, monkeypatch) -> None:
    parquet.write_table(pa.table({"vector": [[1.0]]}), tmp_path / "v.parquet")

    def refuse(_: object) -> None:  # pyarrow's answer to a file of polars; it cannot write one
        raise OSError("Metadata contains Thrift LogicalType that is not recognized")

    monkeypatch.setattr(parquet, "read_schema", refuse)
    with pytest.raises(InputError, match=r"v\.parquet .* float16 .*write it as float32"):
        _check(tmp_path, "parquet")


@pytest.mark.spark
def test_many_files_are_read_by_tasks(spark, tmp_path) -> None:
    for n in range(heads._MANY + 1):
        (tmp_path / f"{n:03}.csv").write_text(LINE)
    _check(tmp_path, "csv", spark)
    (tmp_path / "050.csv").write_text("user_id,item_id\nu,i\n")
    with pytest.raises(InputError, match=r"050\.csv lacks \['ts'\]"):
        _check(tmp_path, "csv", spark)


def test_formats_by_name(tmp_path) -> None:
    folder = str(tmp_path)
    (tmp_path / "a.csv.gz").write_bytes(b"")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a.md").write_text("")
    assert detect_format(folder, "log.path") == "csv"
    (tmp_path / "README.md").write_text("")
    with pytest.raises(InputError, match=r"files of one format at .*a\.csv\.gz and .*README\.md"):
        detect_format(folder, "log.path")
    (tmp_path / "README.md").rename(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="files of one format"):
        detect_format(folder, "log.path")
    (tmp_path / "b.parquet").rename(tmp_path / "a.csv.zip")
    with pytest.raises(InputError, match=r"packed as \.zip; unpack it"):
        detect_format(folder, "log.path")
    (tmp_path / "a.csv.zip").rename(tmp_path / "log_10:00.csv")
    with pytest.raises(InputError, match="colon in its name"):
        detect_format(folder, "log.path")
