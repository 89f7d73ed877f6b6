"""item_features brought up to date: new, changed, removed and unreadable content."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from qarm.config import Encoder
from qarm.encoders.feature_cache import plan_update
from qarm.errors import InputError
from qarm.pipeline import own_tables
from qarm.pipeline.context import Context
from qarm.pipeline.features import update_features
from schemas import TABLES
from tests.lakes.encoders import ITEM_TYPE, item, png

pytestmark = pytest.mark.spark


def rows(context: Context) -> dict[tuple[int, str], Any]:
    table = context.lake.read(context.outputs["item_features"])
    return {(row.item_idx, row.modality): row for row in table.collect()}


def test_all_modalities_then_nothing_then_what_changed(
    write_items: Callable,
    make_context: Callable[..., Context],
    tiny_text_model: str,
    tmp_path: Path,
) -> None:
    """Images that do not decode have no row."""
    (tmp_path / "blue.png").write_bytes(png((0, 0, 200)))
    start = [
        item(0, text="red mug", audio=[1.0, 2.0], image=png((200, 0, 0))),
        item(1, text="blue mug", image=b"no image"),
        item(2, audio=[3.0, 4.0]),
        item(3, image_uri=str(tmp_path / "blue.png")),
        item(4, text="gone", audio=[5.0, 6.0], removed_at=datetime(2020, 1, 1)),
        item(5, image_uri=str(tmp_path / "missing.png")),
    ]
    encoder = {"modalities": ["text", "audio", "image"], "text_backbone": tiny_text_model}
    write_items(start)
    context = make_context("embed-catalog", encoder=encoder)
    update = update_features(context, context.config.encoder)
    assert update.dimensions == {"text": 16, "audio": 2, "image": 1280}
    assert update.backbones["audio"] == "source"
    first = rows(context)
    images = [(0, "image"), (3, "image")]
    others = [(0, "audio"), (0, "text"), (1, "text"), (2, "audio")]
    assert sorted(first) == sorted(others + images)
    assert first[2, "audio"].vector == [3.0, 4.0]
    text = update.counts["text"]
    assert (text.items, text.encoded, text.reused, text.missing, text.unreadable) == (5, 2, 0, 3, 0)
    image = update.counts["image"]
    assert (image.encoded, image.missing, image.unreadable) == (2, 1, 2)
    for ledger in update.ledgers():
        ledger.close("test")

    encoder["modalities"] = ["text", "audio"]
    context = make_context("embed-catalog", encoder=encoder)
    again = update_features(context, context.config.encoder)
    assert again.ref == update.ref  # no commit at all
    assert (again.counts["text"].encoded, again.counts["text"].reused) == (0, 2)

    write_items([item(0, text="green mug"), start[1], item(2), item(6, text="new")])
    context = make_context("embed-catalog", encoder=encoder)
    changed = update_features(context, context.config.encoder)
    assert (changed.counts["text"].encoded, changed.counts["text"].reused) == (2, 1)
    last = rows(context)
    texts = [(0, "text"), (1, "text"), (6, "text")]
    assert sorted(last) == sorted(texts + images)  # images were not asked for: their rows stay
    assert last[0, "text"].vector != first[0, "text"].vector
    assert last[1, "text"] == first[1, "text"]
    assert "audio" not in changed.dimensions


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([1.0, float("nan")], "items.audio: column content has 1 vectors with NaN"),
        ([1.0, 2.0, 3.0], "items.audio: vectors in content must have one length, seen 2 to 3"),
    ],
    ids=["nan", "lengths"],
)
def test_audio_with_nan_or_of_two_lengths_is_refused(
    spark: SparkSession, other: list[float], message: str
) -> None:
    """Before anything is written: by the plan of the update."""
    items = spark.createDataFrame([item(0, audio=other), item(1, audio=[1.0, 2.0])], ITEM_TYPE)
    schema = ", ".join(f"{c.name} {c.type}" for c in TABLES["item_features"].columns)
    with pytest.raises(InputError, match=message):
        plan_update(items, spark.createDataFrame([], schema), Encoder(), ["audio"])


def test_own_features(
    spark: SparkSession, make_context: Callable[..., Context], tmp_path: Path
) -> None:
    schema = ", ".join(f"{c.name} {c.type}" for c in TABLES["item_features"].columns)
    own = spark.createDataFrame([(0, "text", "mine", "h", [1.0, 0.0, 2.0])], schema)
    own.write.parquet(str(tmp_path / "own"))
    context = make_context(
        "embed-catalog",
        encoder={"modalities": ["text"]},
        external={"tables": {"item_features": str(tmp_path / "own")}},
    )
    own_tables.adopt(context)
    update = update_features(context, context.config.encoder)
    assert update.backbones == {"text": "mine"}
    assert update.dimensions == {"text": 3}
