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
