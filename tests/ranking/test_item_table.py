"""Arrays by item_idx, from Parquet files of several versions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from qarm.errors import InputError
from qarm.ranking.item_table import ItemSource, open_table

ROWS = 9


@pytest.fixture
def source(tmp_path):
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
    return ItemSource(
        rows=ROWS, embeddings=embeddings, encoder_version="new", codes=codes, codebook_id="new"
    )


def test_rows_lie_at_their_index_and_missing_ones_are_marked(source):
    with open_table("a", source) as table:
        known = [False, *[True] * 6, False, False]
        assert table.has_vector.tolist() == table.has_code.tolist() == known
        assert table.vector[5].tolist() == [5.0, 2.5]
        assert table.vector[7].tolist() == [0.0, 0.0]
        assert table.rq[3].tolist() == [3, 4, 0]
        assert table.rq[0].tolist() == [-1, -1, -1]
        assert table.vq[6].tolist() == [6, 8]
        assert isinstance(table.vector, np.memmap)


def test_nothing_to_look_up(source):
    with open_table("a", replace(source, rows=3, embeddings=[], codes=[])) as table:
        assert (table.rows, table.vector.shape, table.vq.shape) == (3, (3, 0), (3, 0))


def refuse(source, message):
    with pytest.raises(InputError, match=message), open_table("a", source):
        pass


def test_bad_tables(tmp_path, source):
    refuse(replace(source, rows=4), "item_idx 1 to 5, the catalogue ends at 3")
    twice = [*source.embeddings, source.embeddings[0]]
    refuse(replace(source, embeddings=twice), "9 rows name 6 items")
    path = str(tmp_path / "short.parquet")
    short = pa.table(
        {"item_idx": [0, 8], "vector": [[1.0], [1.0, 2.0]], "encoder_version": ["new"] * 2}
    )
    parquet.write_table(short, path)
    refuse(replace(source, embeddings=[path]), "column vector: all lists must have length 1, 2 was")
