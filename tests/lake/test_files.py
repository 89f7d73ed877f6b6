"""Small files by URI."""

from __future__ import annotations

from functools import partial

import pytest

from qarm.errors import StorageError
from qarm.lake import files


def test_write_is_atomic(tmp_path, monkeypatch) -> None:
    uri = str(tmp_path / "a" / "x.json")
    files.write_text(uri, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(uri, "new")
    assert files.read_text(uri) == "old"
    assert files.list_dir(str(tmp_path / "a")) == ["x.json"]


def test_uris_and_paths_are_the_same_file(tmp_path) -> None:
    files.write_text(f"file://{tmp_path}/x", "1")
    assert files.read_text(str(tmp_path / "x")) == "1"
    assert files.read_text(f"file:{tmp_path}/x") == "1"
    assert files.local_path(f"file:{tmp_path}/x") == str(tmp_path / "x")
    assert files.local_path("s3a://bucket/x") is None
    files.write_text("memory://bucket/y", "2")
    assert files.exists("memory://bucket/y")
    files.remove_tree("memory://bucket")
    assert not files.exists("memory://bucket/y")


def test_describe_sees_a_changed_file(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("1")
    (tmp_path / "b.csv").write_text("22")
    before = files.describe(str(tmp_path))
    assert [d["size"] for d in before] == [1, 2]
    assert files.describe(str(tmp_path / "*.csv")) == before
    (tmp_path / "b.csv").write_text("333")
    assert files.describe(str(tmp_path)) != before
    assert files.describe(str(tmp_path / "none")) == []


def test_describe_sees_a_file_of_equal_size_where_the_store_has_no_time(monkeypatch) -> None:
    """Some stores name no time or tag that we know, others nothing but the size."""
    from fsspec.implementations.memory import MemoryFileSystem

    uri = "memory://described/a.csv"
    seen = []
    for content in ("1", "2", "3"):
        files.write_text(uri, content)
        seen.append(files.describe(uri))
    assert len({str(each) for each in seen}) == 3
    info = MemoryFileSystem.info

    def size_only(self, path, **keywords):
        return {k: info(self, path, **keywords)[k] for k in ("name", "size", "type")}

    monkeypatch.setattr(MemoryFileSystem, "info", size_only)
    before = files.describe(uri)
    assert files.describe(uri) == before
    files.write_text(uri, "4")
    assert files.describe(uri) != before


def test_names_with_the_characters_of_globs(tmp_path) -> None:
    folder = tmp_path / "logs [2024]"
    folder.mkdir()
    (folder / "a.csv").write_text("1")
    (folder / "_SUCCESS").write_text("")
    (folder / "_day=1").mkdir()
    (folder / "_day=1" / "b.csv").write_text("2")
    uri = str(folder)
    assert [d["name"] for d in files.describe(f"{uri}/a.csv")] == [f"{uri}/a.csv"]
    assert files.visible_files(uri) == [f"{uri}/_day=1/b.csv", f"{uri}/a.csv"]
    assert files.hadoop_path(uri) == str(tmp_path / "logs \\[2024\\]")
    assert files.hadoop_path(f"{tmp_path}/*.csv") == f"{tmp_path}/*.csv"
    files.write_text("memory://visible/a.csv", "1")
    assert files.visible_files("memory://visible") == ["memory://visible/a.csv"]


def test_what_spark_leaves_out_is_not_visible(tmp_path) -> None:
    for name in ("a.csv", ".a.csv.crc", "_SUCCESS", "b.csv._COPYING_", "x_$folder$"):
        (tmp_path / name).write_text("1")
    expected = [str(tmp_path / "a.csv")]
    assert files.visible_files(str(tmp_path)) == expected
    assert files.visible_files(f"{tmp_path}/*") == expected


def test_files_keep_the_host_and_the_scheme_of_their_folder(tmp_path) -> None:
    class Stripping:
        """As file systems of pyarrow and adlfs name files."""

        def unstrip_protocol(self, name: str) -> str:
            return f"other://{name}"

    named = partial(files._named_like, fs=Stripping())
    assert named(uri="hdfs://nn2:8020/log", path="/log", name="/log/a") == "hdfs://nn2:8020/log/a"
    assert named(uri="s3a://b/log/", path="b/log", name="b/log/a") == "s3a://b/log/a"
    assert named(uri="s3a://b/*.csv", path="b/*.csv", name="b/a.csv") == "s3a://b/a.csv"


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    files.check_writable(str(tmp_path / "new"))
    assert files.list_dir(str(tmp_path / "new")) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/x cannot be written: Not a directory.*--lake"):
        files.check_writable(str(tmp_path / "file" / "x"))
