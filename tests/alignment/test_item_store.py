from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from qarm.alignment.encoder_task import ItemFiles
from qarm.alignment.item_store import open_store
from qarm.encoders.hashing import attribute_buckets
from qarm.errors import InputError

MAP = pa.map_(pa.string(), pa.list_(pa.string()))
VECTORS = {3: [1.0, 2.0], 5: [3.0, 4.0], 70: [5.0, 6.0]}


def write(folder: Path, name: str, columns: dict[str, Any]) -> list[str]:
    """Two Parquet files with the rows' halves, named as Spark names them."""
    table = pa.table(columns)
    half, uris = table.num_rows // 2, []
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        path = folder / f"{name} {number}.parquet"
        parquet.write_table(part, path)
        uris.append(f"file:{str(path).replace(' ', '%20')}")
    return uris


@pytest.fixture
def source(tmp_path: Path) -> ItemFiles:
    """Items 3, 5, 9 and 70 occur in pairs; 4 does not, and 9 has nothing."""
    features = [(i, "text", "b", v) for i, v in VECTORS.items()]
    features += [(4, "text", "b", [9.0, 9.0]), (5, "text", "old", [8.0, 8.0])]
    features.append((5, "image", "c", [7.0, 7.0, 7.0]))
    index, modality, backbone, vector = zip(*features, strict=True)
    items = {3: [("g", ["x", "y"])], 4: [("g", ["z"])], 5: None, 9: [], 70: [("g", ["y"])]}
    return ItemFiles(
        pair_files=write(tmp_path, "pairs", {"trigger": [3, 5, 70], "target": [70, 9, 5]}),
        feature_files=write(
            tmp_path,
            "features",
            {
                "item_idx": index,
                "modality": modality,
                "backbone": backbone,
                "vector": pa.array(vector, pa.list_(pa.float32())),
            },
        ),
        item_files=write(
            tmp_path,
            "items",
            {
                "item_idx": list(items),
                "attributes": pa.array(items.values(), MAP),
                "text": ["three", "four", "fünf", None, "seventy"],
            },
        ),
        backbones={"text": "b", "image": "c"},
        feature_dims={"image": 3, "text": 2},
        buckets=100,
        contents=["text"],
    )


def test_items_get_what_the_tables_say(source: ItemFiles) -> None:
    with open_store("a", source) as store:
        assert store.items.tolist() == [3, 5, 9, 70]
        rows = store.rows_of(np.array([70, 9, 3, 5, 70]))
        assert rows.tolist() == [3, 2, 0, 1, 3]
        batch = store.batch(rows, features_of=["text"])
        assert batch.present["text"].tolist() == [True, False, True, True, True]
        assert batch.present["image"].tolist() == [False, False, False, True, False]
        assert batch.features["text"][[0, 2, 3]].tolist() == [VECTORS[70], VECTORS[3], VECTORS[5]]
        assert batch.features["image"][3].tolist() == [7.0, 7.0, 7.0]
        assert batch.contents == {"text": ["seventy", "three", "fünf", "seventy"]}
        assert batch.offsets is not None
        assert batch.offsets.tolist() == [0, 1, 1, 3, 3, 4]
        _, y = attribute_buckets(pa.array([[("g", ["y"])]], MAP), 100)
        assert batch.ids[0] == batch.ids[3] == y[0]
        assert "text" not in store.batch(rows).features


def test_item_of_no_pair(source: ItemFiles) -> None:
    with open_store("a", source) as store:
        for unknown in (4, 1000):
            with pytest.raises(InputError, match=rf"items \[{unknown}\] occur in no training pair"):
                store.rows_of(np.array([3, unknown]))


def test_features_of_another_width(source: ItemFiles) -> None:
    wrong = replace(source, feature_dims={"image": 3, "text": 4})
    with pytest.raises(InputError, match="text vectors of b: all lists must have length 4, 2 was"):
        open_store("a", wrong).__enter__()
