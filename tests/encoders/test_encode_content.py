"""Content of items, its hash, and the task that encodes it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from qarm.config.encoder import Encoder
from qarm.encoders import encode_content
from qarm.encoders.encode_content import as_lists, encode_batches, fetch_contents, with_content
from qarm.errors import InputError
from tests.lakes.encoders import ITEM_TYPE, item

ITEMS = [
    item(0, text="red mug", image=b"pixels", audio=[1.0]),
    item(1, text="", image_uri="a.png", audio=[]),
    item(2),
]


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        ("text", {0: ("red mug", None, b"red mug")}),
        ("image", {0: (b"pixels", None, b"pixels"), 1: (None, "a.png", b"a.png")}),
        ("audio", {0: ([1.0], None, b"[1.0]")}),
    ],
)
def test_content_of_items_that_have_the_modality(
    spark: SparkSession, modality: str, expected: dict
) -> None:
    rows = with_content(spark.createDataFrame(ITEMS, ITEM_TYPE), modality).collect()
    assert {r.item_idx: (r.content, r.uri, r.modality_hash) for r in rows} == {
        idx: (content, uri, hashlib.sha256(hashed).hexdigest())
        for idx, (content, uri, hashed) in expected.items()
    }


def test_contents_are_read_where_only_a_uri_is_given(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"there")
    uris = [None, str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a")]
    contents = pa.array([None, None, None, b"own"], pa.binary())
    assert fetch_contents(contents, pa.array(uris)) == [None, b"there", None, b"own"]


def texts(*values: str) -> pa.RecordBatch:
    rows = len(values)
    return pa.RecordBatch.from_pydict(
        {
            "item_idx": range(rows),
            "content": list(values),
            "uri": pa.array([None] * rows, pa.string()),
            "modality_hash": [f"h{i}" for i in range(rows)],
        }
    )


def test_each_text_gets_its_vector(tiny_text_model: str) -> None:
    encoder = Encoder(text_backbone=tiny_text_model)
    task = {"modality": "text", "encoder_json": encoder.model_dump_json()}
    (together,) = encode_batches(iter([texts("a b", "c")]), **task)
    (alone,) = encode_batches(iter([texts("c")]), **task)
    assert together.column("modality_hash").to_pylist() == ["h0", "h1"]
    np.testing.assert_allclose(
        together.column("vector")[1].as_py(), alone.column("vector")[0].as_py(), atol=1e-6
    )


class Damaged:
    """A backbone whose second vector is NaN."""

    def encode(self, contents: list) -> np.ndarray:
        vectors = np.ones((len(contents), 2), np.float32)
        vectors[1] = np.nan
        return vectors


def test_texts_without_a_finite_vector_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_content, "shared_backbone", lambda *_: Damaged())
    with pytest.raises(InputError, match="NaN or infinity for 1 texts, such as 'mug'"):
        list(encode_batches(iter([texts("cup", "mug")]), modality="text", encoder_json=""))


def test_images_without_a_finite_vector_have_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_content, "shared_backbone", lambda *_: Damaged())
    (rows,) = encode_batches(iter([texts("a", "b", "c")]), modality="image", encoder_json="")
    assert rows.column("item_idx").to_pylist() == [0, 2]
    assert rows.column("vector").to_pylist() == [[1.0, 1.0], [1.0, 1.0]]


def test_matrix_as_lists() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert as_lists(matrix).to_pylist() == matrix.tolist()
    assert as_lists(matrix[:0]).to_pylist() == []
