"""The user's own safetensors files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from qarm.errors import InputError
from qarm.pipeline import own_tensors

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def _file(folder: Path, tensors: dict[str, np.ndarray], **metadata: str) -> str:
    path = str(folder / "x.safetensors")
    save_file(tensors, path, metadata or None)
    return path


def test_header_and_rows(tmp_path: Path) -> None:
    uri = _file(tmp_path, {"vector": X.astype(np.float16)}, encoder_version="mine")
    tensors, metadata = own_tensors.read_header(uri)
    assert metadata == {"encoder_version": "mine"}
    assert (tensors["vector"].shape, tensors["vector"].dtype) == ((4, 3), "F16")
    with open(uri, "rb") as file:
        assert tensors["vector"].rows(file, 1, 3).tolist() == X[1:3].tolist()


def test_other_and_truncated_files_are_errors(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no such file, but long enough")
    with pytest.raises(InputError, match="is not a safetensors file"):
        own_tensors.read_header(str(other))
    uri = _file(tmp_path, {"vector": X})
    content = Path(uri).read_bytes()
    Path(uri).write_bytes(content[:-4])
    with pytest.raises(InputError, match="ends within tensor vector"):
        own_tensors.read_header(uri)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [3, 3]}, r"shape \(3, 3\) should be at bytes 0 to 36 .* says 0 to 48"),
        ({"shape": [4, -3]}, r"has the shape \(4, -3\)"),
        ({"data_offsets": [4, 52]}, "should be at bytes 0 to 48 .* says 4 to 52"),
        ({"dtype": "F13"}, "unknown type F13"),
    ],
)
def test_what_the_reference_reader_refuses_is_refused(tmp_path: Path, change, message) -> None:
    """A header whose tensors overlap, leave gaps, or are not of their shape's size."""
    about = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48], **change}
    header = json.dumps({"vector": about}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + X.tobytes() + bytes(4))
    with pytest.raises(SafetensorError):
        load_file(path)
    with pytest.raises(InputError, match=message):
        own_tensors.read_header(str(path))


def test_more_than_the_tensors_is_refused(tmp_path: Path) -> None:
    uri = _file(tmp_path, {"vector": X})
    with open(uri, "ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="4 bytes follow after the last tensor"):
        own_tensors.read_header(uri)


@pytest.mark.spark
def test_vectors_are_rows_with_ids_or_numbers(spark, tmp_path: Path) -> None:
    ids = np.array([7, 9, 11, 13])
    uri = _file(tmp_path, {"vector": X, "item_id": ids}, encoder_version="mine")
    rows = own_tensors.read_tensors(spark, uri, "item_embeddings").orderBy("vector").collect()
    assert [(r["item_id"], r["vector"], r["encoder_version"]) for r in rows] == [
        (str(i), x, "mine") for i, x in zip(ids, X.tolist(), strict=True)
    ]
    uri = _file(tmp_path, {"vector": X})
    rows = own_tensors.read_tensors(spark, uri, "item_embeddings").orderBy("vector").collect()
    assert [r["item_id"] for r in rows] == ["0", "1", "2", "3"]
    with pytest.raises(InputError, match="items cannot; bring a Delta table"):
        own_tensors.read_tensors(spark, uri, "items")
    uri = _file(tmp_path, {"vector": X, "item_id": ids[:2]})
    with pytest.raises(InputError, match=r"expected a tensor item_id of shape \(4,\)"):
        own_tensors.read_tensors(spark, uri, "item_embeddings")
