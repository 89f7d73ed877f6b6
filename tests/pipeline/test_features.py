"""item_features brought up to date: new, changed, removed and unreadable content."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pyspark.sql import SparkSession

from qarm.errors import InputError
from qarm.pipeline import own_tables
from qarm.pipeline.context import Context
from qarm.pipeline.features import update_features
from schemas import TABLES
from tests.lakes.encoders import item, png

pytestmark = pytest.mark.spark

AUDIO = {"encoder": {"modalities": ["audio"]}}
START = [
    item(0, text="red mug", audio=[1.0, 2.0]),
    item(1, text="blue mug"),
    item(2, audio=[3.0, 4.0]),
    item(3),
    item(4, text="gone", audio=[5.0, 6.0], removed_at=datetime(2020, 1, 1)),
]


def rows(context: Context) -> dict[tuple[int, str], Any]:
    table = context.lake.read(context.outputs["item_features"])
    return {(row.item_idx, row.modality): row for row in table.collect()}


def test_texts_and_audio_then_nothing_then_what_changed(
    write_items: Callable, make_context: Callable[..., Context], tiny_text_model: str
) -> None:
    settings = {"encoder": {"modalities": ["text", "audio"], "text_backbone": tiny_text_model}}
    write_items(START)
    context = make_context("embed-catalog", **settings)
    update = update_features(context, context.config.encoder)
    assert update.dimensions == {"text": 16, "audio": 2}
    assert update.backbones["audio"] == "source"
    first = rows(context)
    assert sorted(first) == [(0, "audio"), (0, "text"), (1, "text"), (2, "audio")]
    assert first[2, "audio"].vector == [3.0, 4.0]
    text = update.counts["text"]
    assert (text.items, text.encoded, text.reused, text.missing, text.unreadable) == (4, 2, 0, 2, 0)
    for ledger in update.ledgers():
        ledger.close("test")

    context = make_context("embed-catalog", **settings)
    again = update_features(context, context.config.encoder)
    assert again.ref == update.ref  # no commit at all
    assert (again.counts["text"].encoded, again.counts["text"].reused) == (0, 2)

    write_items([item(0, text="green mug"), START[1], item(2), item(5, text="new")])
    context = make_context("embed-catalog", **settings)
    changed = update_features(context, context.config.encoder)
    assert (changed.counts["text"].encoded, changed.counts["text"].reused) == (2, 1)
    last = rows(context)
    assert sorted(last) == [(0, "text"), (1, "text"), (5, "text")]
    assert last[0, "text"].vector != first[0, "text"].vector
    assert last[1, "text"] == first[1, "text"]
    assert "audio" not in changed.dimensions


def test_images_that_do_not_decode_have_no_row(
    write_items: Callable, make_context: Callable[..., Context], tmp_path: Any
) -> None:
    (tmp_path / "blue.png").write_bytes(png((0, 0, 200)))
    write_items(
        [
            item(0, image=png((200, 0, 0))),
            item(1, image=b"no image"),
            item(2),
            item(3, image_uri=str(tmp_path / "blue.png")),
            item(4, image_uri=str(tmp_path / "missing.png")),
        ]
    )
    context = make_context("embed-catalog", encoder={"modalities": ["image"]})
    update = update_features(context, context.config.encoder)
    assert update.dimensions == {"image": 1280}
    assert sorted(rows(context)) == [(0, "image"), (3, "image")]
    counts = update.counts["image"]
    assert (counts.encoded, counts.missing, counts.unreadable) == (2, 1, 2)
    update.ledgers()[0].close("test")


def test_audio_with_nan_or_of_two_lengths_is_refused(
    write_items: Callable, make_context: Callable[..., Context]
) -> None:
    context = make_context("embed-catalog", **AUDIO)
    write_items([item(0, audio=[1.0, float("nan")]), item(1, audio=[1.0, 2.0])])
    with pytest.raises(InputError, match=r"items.audio: column content has 1 vectors with NaN"):
        update_features(context, context.config.encoder)
    context = make_context("embed-catalog", **AUDIO)
    write_items([item(0, audio=[1.0, 2.0, 3.0]), item(1, audio=[1.0, 2.0])])
    with pytest.raises(InputError, match="must have one length, seen 2 to 3"):
        update_features(context, context.config.encoder)


def test_own_features(
    spark: SparkSession,
    write_items: Callable,
    make_context: Callable[..., Context],
    tmp_path: Any,
) -> None:
    write_items(START)
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
