"""Limits of the formats, and the parts that are streamed into one file. No Spark."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qarm.codes import formats
from qarm.codes.formats import Codes
from qarm.errors import InputError


def codes(sizes: list[int]) -> Codes:
    rows: object = None  # a limit is checked before the rows are read
    return Codes(rows, 1, sizes, "book", "rq", integer_ids=True)  # type: ignore[arg-type]


def test_minionerec_names_26_levels(tmp_path) -> None:
    with pytest.raises(InputError, match="levels a to z, these codes have 27 levels"):
        formats.write_minionerec(codes([2] * 27), str(tmp_path / "x.json"))
    assert os.listdir(tmp_path) == []


def test_torcheasyrec_numbers_codes_by_int64(tmp_path) -> None:
    with pytest.raises(InputError, match=r"levels \[4294967296, 2147483648\] multiply to more"):
        formats.write_torcheasyrec(codes([2**32, 2**31]), str(tmp_path / "bundle"))
    assert os.listdir(tmp_path) == []


def test_parts_are_removed_also_after_an_error(tmp_path) -> None:
    to = str(tmp_path / "codes.json")
    os.makedirs(f"{to}.parts")
    (tmp_path / "codes.json.parts" / "part-stale").write_text("of a run that was killed")

    def write_and_fail() -> None:
        with formats._parts(to) as folder:
            assert not os.path.exists(folder), "the stale parts are gone"
            os.makedirs(folder)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_and_fail()
    assert os.listdir(tmp_path) == []


def test_contents_in_the_order_of_names_a_chunk_at_a_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(formats, "_CHUNK", 4)
    for name, text in (("part-00010", "last"), ("part-00002", "second"), ("part-00000", "")):
        (tmp_path / name).write_text(text)
    (tmp_path / "_SUCCESS").write_text("not a part")
    (tmp_path / ".part-00000.crc").write_text("nor this")
    assert list(formats._contents(str(tmp_path))) == [b"seco", b"nd", b"last"]


def test_rows_by_the_footers(tmp_path) -> None:
    for number, rows in enumerate((3, 0, 4)):
        pq.write_table(
            pa.table({"n": pa.array(range(10 * number, 10 * number + rows), pa.int64())}),
            tmp_path / f"part-{number}",
        )
    assert formats._rows_in(str(tmp_path)) == 7
    read = [n for batch in formats._batches(str(tmp_path)) for n in batch["n"].to_pylist()]
    assert read == [0, 1, 2, 20, 21, 22, 23]
    assert formats._rows_in(str(tmp_path / "none")) == 0
