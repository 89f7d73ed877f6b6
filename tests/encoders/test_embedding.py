"""Items and features as the encoder's input, without Spark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from qarm.config.encoder import Encoder
from qarm.encoders import artifact
from qarm.encoders.embedding import (
    check_backbones,
    embed_batches,
    frozen_modalities,
    item_batch,
    item_modalities,
)
from qarm.encoders.fusion import ItemEncoder
from qarm.errors import InputError

CARD = {"feature_dims": {"image": 2, "text": 3}, "finetune": ["image"], "backbones": {"text": "a"}}
MAP = pa.map_(pa.string(), pa.list_(pa.string()))


def encoder() -> ItemEncoder:
    torch.manual_seed(0)
    config = Encoder(dimensions=4, hidden=4, attribute_buckets=16)
    return ItemEncoder(config, {"text": 3}, attributes=True).eval()


def rows(vectors: list) -> pa.RecordBatch:
    """Three items, of which the last has no content."""
    return pa.RecordBatch.from_pydict(
        {
            "item_id": ["a", "b", "c"],
            "item_idx": [0, 1, 2],
            "content_hash": ["x", "y", "z"],
            "attributes": pa.array([[("g", ["war"])], None, None], MAP),
            "vector_text": pa.array(vectors, pa.list_(pa.float32())),
        }
    )


def test_features_of_another_backbone_are_refused() -> None:
    assert frozen_modalities(CARD) == ["text"]
    check_backbones(CARD, {"text": "a", "image": "trained with the encoder"})
    check_backbones(CARD, {})
    with pytest.raises(InputError, match="text features of a, item_features has those of b"):
        check_backbones(CARD, {"text": "b"})


def test_absent_features_are_masked() -> None:
    items = item_batch(rows([None, [1.0, 2.0, 3.0], None]), encoder())
    assert items.present["text"].tolist() == [False, True, False]
    assert items.features["text"].tolist() == [[0.0] * 3, [1.0, 2.0, 3.0], [0.0] * 3]
    assert item_modalities(items, ["text", "attributes"]) == [["attributes"], ["text"], []]


def test_a_catalogue_without_any_feature_of_a_modality() -> None:
    batch = rows([None] * 3)
    batch = batch.select([name for name in batch.schema.names if name != "vector_text"])
    assert not item_batch(batch, encoder()).present["text"].any()


def test_features_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="vector_text: 1 vectors should have 3 numbers"):
        item_batch(rows([None, [1.0, 2.0], None]), encoder())


def test_rows_of_the_table(tmp_path: Path) -> None:
    made = encoder()
    written = artifact.save(str(tmp_path / "encoder"), made, {"text": "a"})
    batch = rows([None, [1.0, 2.0, 3.0], None])
    task = {"uri": written["uri"], "version": written["version"]}
    (table,) = embed_batches(iter([batch]), **task)
    expected = made(item_batch(batch, made)).detach().numpy()
    np.testing.assert_array_equal(np.array(table.column("vector").to_pylist()), expected)
    assert table.column("encoder_version").to_pylist() == [written["version"]] * 3
    assert table.column("modalities").to_pylist() == [["attributes"], ["text"], []]
    with pytest.raises(InputError, match="expected other"):
        list(embed_batches(iter([batch]), uri=written["uri"], version="other"))
    with pytest.raises(InputError, match=r"NaN or infinity for 1 items, such as 'b'"):
        list(embed_batches(iter([rows([None, [np.inf, 0.0, 0.0], None])]), **task))
