"""Arrays by item_idx, from Parquet files of several versions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from qarm.errors import InputError
from qarm.ranking import item_table

ROWS = 9


@pytest.fixture
def sources(tmp_path):
    """Items 1 to 6 in two files, beside rows of an older version with other lengths."""
    embeddings, codes = [], []
    for number, items in enumerate(([5, 1, 4], [2, 6, 3])):
        idx = pa.array([*items, 7])
        vectors = pa.array([[i, i / 2] for i in items] + [[1.0, 2.0, 3.0]], pa.list_(pa.float32()))
        table = pa.table(
            {"item_idx": idx, "vector": vectors, "encoder_version": ["new"] * 3 + ["old"]}
        )
        embeddings.append(str(tmp_path / f"vectors {number}.parquet"))
        parquet.write_table(table, embeddings[-1])
        rq = pa.array([[i, i + 1, 0] for i in items] + [[1]], pa.list_(pa.int32()))
        vq = pa.array([[i, 8] for i in items] + [[]], pa.list_(pa.int32()))
        table = pa.table(
            {"item_idx": idx, "rq": rq, "vq": vq, "codebook_id": ["new"] * 3 + ["old"]}
        )
        codes.append(f"file:{tmp_path}/codes-{number}.parquet")
        parquet.write_table(table, codes[-1].removeprefix("file:"))
    return {
        "embeddings": embeddings,
        "codes": codes,
        "encoder_version": "new",
        "codebook_id": "new",
    }


def test_rows_lie_at_their_index_and_missing_ones_are_marked(tmp_path, sources):
    table = item_table.build(str(tmp_path / "items"), rows=ROWS, **sources)
    known = [False, *[True] * 6, False, False]
    assert table.has_vector.tolist() == table.has_code.tolist() == known
    assert table.vector[5].tolist() == [5.0, 2.5]
    assert table.vector[7].tolist() == [0.0, 0.0]
    assert table.rq[3].tolist() == [3, 4, 0]
    assert table.rq[0].tolist() == [-1, -1, -1]
    assert table.vq[6].tolist() == [6, 8]
    assert isinstance(table.vector, np.memmap)
    assert [p.name for p in tmp_path.glob("items*")] == ["items"]  # no half-built folder


def test_is_built_once_and_anew_for_other_files(tmp_path, sources, monkeypatch):
    folder = str(tmp_path / "items")
    item_table.build(folder, rows=ROWS, **sources)
    with monkeypatch.context() as patched:
        patched.setattr(item_table, "_fill", None)
        item_table.build(folder, rows=ROWS, **sources)
    less = {**sources, "codes": sources["codes"][:1]}
    assert item_table.build(folder, rows=ROWS, **less).has_code.sum() == 3


def test_nothing_to_look_up(tmp_path):
    table = item_table.build(str(tmp_path / "items"), rows=3)
    assert (table.rows, table.vector.shape, table.vq.shape) == (3, (3, 0), (3, 0))


def test_bad_tables(tmp_path, sources):
    folder = str(tmp_path / "items")
    with pytest.raises(InputError, match="item_idx 1 to 5, the catalogue ends at 3"):
        item_table.build(folder, rows=4, **sources)
    twice = {**sources, "embeddings": [*sources["embeddings"], sources["embeddings"][0]]}
    with pytest.raises(InputError, match="9 rows name 6 items"):
        item_table.build(folder, rows=ROWS, **twice)
    path = str(tmp_path / "short.parquet")
    short = pa.table(
        {"item_idx": [0, 8], "vector": [[1.0], [1.0, 2.0]], "encoder_version": ["new"] * 2}
    )
    parquet.write_table(short, path)
    with pytest.raises(InputError, match="one length, seen 1 and 2"):
        item_table.build(folder, rows=ROWS, **{**sources, "embeddings": [path]})
    assert not list(tmp_path.glob("items*"))
