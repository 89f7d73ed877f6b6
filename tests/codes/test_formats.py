<<<<<<< HEAD
"""What formats cannot hold, and which codes are exported; test_export reads each format."""

from __future__ import annotations

import pytest

from qarm.codes.export import choose_codes, write_codes
from qarm.codes.formats import Codes
from qarm.errors import InputError, RowsLostError


def codes(sizes, rows=None, count=0):
    return Codes(rows=rows, count=count, sizes=sizes, codebook_id="b", kind="rq", integer_ids=False)


def test_what_a_format_cannot_hold(tmp_path) -> None:
    with pytest.raises(InputError, match="names levels a to z, these codes have 27 levels"):
        write_codes(codes([2] * 27), "minionerec", str(tmp_path / "x.json"))
    with pytest.raises(InputError, match="numbers codes by int64"):
        write_codes(codes([2**16] * 4), "torcheasyrec", str(tmp_path / "x"))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def ids(spark):
    rows = [("a", 0, "b1", [1, 2], [1, 3], [0]), ("b", 1, "b1", [0, 0], None, [0])]
    rows.append(("a", 0, "b2", [4, 4], None, [0]))
    return spark.createDataFrame(
        rows,
        "item_id string, item_idx bigint, codebook_id string, rq array<int>, "
        "rq_resolved array<int>, vq array<int>",
    )


@pytest.mark.spark
def test_codes_of_one_codebook(ids, tmp_path) -> None:
    chosen = choose_codes(ids, codebook_id="b1", levels=None, items=None)
    assert (chosen.kind, chosen.count, chosen.sizes) == ("rq", 2, [2, 3])
    assert sorted(r["code"] for r in chosen.rows.collect()) == [[0, 0], [1, 2]]
    with pytest.raises(InputError, match="1 of 2 items have none"):
        choose_codes(ids, codebook_id="b1", levels=None, items=None, kind="rq_resolved")
    with pytest.raises(InputError, match=r"codes of codebooks \['b1', 'b2'\]"):
        choose_codes(ids, codebook_id="", levels=None, items=None)
    lost = codes([2, 3], rows=chosen.rows, count=3)
    with pytest.raises(RowsLostError, match="3 items have a code, 2 were written"):
        write_codes(lost, "parquet", str(tmp_path / "codes"))
=======
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
        formats.write_minionerec(codes([2] * 27), str(tmp_path / "x.json"), "item_id")
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
>>>>>>> tests
