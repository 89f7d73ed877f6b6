"""A tiny catalogue, and backbones that are loaded once."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import DataFrame, SparkSession

from qarm.config.encoder import Encoder
from qarm.encoders.backbones import TextBackbone, open_backbone
from qarm.lake.tables import Lake
from schemas import TABLES

ITEM_TYPE = (
    "item_id string, item_idx bigint, first_seen timestamp, removed_at timestamp, "
    "content_hash string, source_type string, title string, text string, image binary, "
    "image_uri string, audio array<float>, attributes map<string,array<string>>"
)


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    """An image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def item(index: int, **content: Any) -> dict[str, Any]:
    """A row of items; the content hash follows the content."""
    columns = ("title", "text", "image", "image_uri", "audio", "attributes", "removed_at")
    row = {name: content.get(name) for name in columns}
    mark = f"hash-{hash(repr(sorted((k, v) for k, v in row.items() if v is not None)))}"
    return {
        "item_id": f"i{index}",
        "item_idx": index,
        "first_seen": None,
        "content_hash": mark,
        "source_type": "string",
        **row,
    }


@pytest.fixture
def write_items(spark: SparkSession, lake: Lake) -> Callable[[list[dict[str, Any]]], DataFrame]:
    """Replace table items and publish it as stage ingest would."""
    from qarm.lake import manifest

    def write(rows: list[dict[str, Any]]) -> DataFrame:
        df = spark.createDataFrame(rows, ITEM_TYPE)  # type: ignore[type-var]
        ref = lake.overwrite(TABLES["items"], df, {"stage": "ingest"})
        manifest.publish(
            lake.root,
            manifest.Manifest(
                stage="ingest",
                run_id="test",
                config_hash="",
                code_version="",
                inputs={},
                outputs={"items": ref.as_dict()},
            ),
        )
        return lake.read(ref)

    return write


@pytest.fixture(scope="session")
def minilm() -> TextBackbone:
    """MiniLM, loaded once."""
    backbone = open_backbone(Encoder(), "text")
    assert isinstance(backbone, TextBackbone)
    return backbone


@pytest.fixture(scope="session")
def tiny_text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Hugging Face folder with random weights: loads in no time, and can be trained in a test."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    folder.mkdir()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(d) for d in range(10)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *[f"##{x}" for x in letters]]
    BertTokenizerFast(vocab={word: n for n, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.fixture
def generator() -> np.random.Generator:
    """A seeded source of numbers."""
    return np.random.default_rng(7)
