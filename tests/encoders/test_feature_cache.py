"""The plan of an update of item_features, and its counts."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession

from qarm.config.encoder import Encoder
from qarm.encoders.feature_cache import (
    FeaturePlan,
    ModalityWork,
    dense_modalities,
    measure,
    own_backbones,
    plan_update,
    small_arrow_batches,
)
from qarm.errors import InputError
from schemas import TABLES
from tests.lakes.encoders import ITEM_TYPE, item


def features(spark: SparkSession, *rows: tuple) -> DataFrame:
    schema = ", ".join(f"{c.name} {c.type}" for c in TABLES["item_features"].columns)
    return spark.createDataFrame(list(rows), schema)


def test_attributes_have_no_feature_vector() -> None:
    assert dense_modalities(["audio", "attributes", "text"]) == ["text", "audio"]


def test_only_new_and_changed_content_is_encoded(spark: SparkSession) -> None:
    items = [item(0, audio=[1.0, 2.0]), item(1, audio=[3.0, 4.0]), item(2)]
    frame = spark.createDataFrame(items, ITEM_TYPE)
    first = plan_update(frame, features(spark), Encoder(), ["audio"])
    assert first.work == {
        "audio": ModalityWork("source", contents=2, missing=1, reused=0, to_encode=2)
    }
    assert first.rows is not None
    known = spark.createDataFrame(first.rows.collect(), first.rows.schema)
    assert {r.item_idx: r.vector for r in known.collect()} == {0: [1.0, 2.0], 1: [3.0, 4.0]}
    assert plan_update(frame, known, Encoder(), ["audio"]).rows is None

    items[1] = item(1, audio=[5.0, 6.0])
    changed = plan_update(spark.createDataFrame(items, ITEM_TYPE), known, Encoder(), ["audio"])
    assert changed.work["audio"] == ModalityWork(
        "source", contents=2, missing=1, reused=1, to_encode=1
    )
    assert changed.rows is not None
    assert {r.item_idx: r.vector for r in changed.rows.collect()} == {
        0: [1.0, 2.0],
        1: [5.0, 6.0],
    }


def test_rows_of_removed_items_alone_are_a_change(spark: SparkSession) -> None:
    known = features(spark, (7, "audio", "source", "h", [1.0]), (7, "image", "net", "h", [1.0]))
    plan = plan_update(spark.createDataFrame([item(2)], ITEM_TYPE), known, Encoder(), ["audio"])
    assert plan.rows is not None
    assert plan.rows.isEmpty()
    assert plan.work["audio"] == ModalityWork(
        "source", contents=0, missing=1, reused=0, to_encode=0
    )


def test_counts_add_up_to_the_catalogue() -> None:
    work = {"image": ModalityWork("net", contents=7, missing=3, reused=2, to_encode=5)}
    counts = FeaturePlan(items=10, work=work, rows=None).counts({"image": 6}, {"image": 1})["image"]
    assert (counts.encoded, counts.reused, counts.missing, counts.unreadable) == (4, 2, 3, 1)
    assert counts.items == 4 + 2 + 3 + 1


def test_own_features_have_one_backbone_per_modality(spark: SparkSession) -> None:
    one = ("text", "mine", "h", [1.0])
    table = features(spark, (0, *one), (1, *one), (1, "image", "net", "h", [1.0]))
    assert own_backbones(table, ["text"]) == {"text": "mine"}
    both = table.unionByName(features(spark, (2, "text", "other", "h", [1.0])))
    with pytest.raises(InputError, match="2 backbones for text"):
        own_backbones(both, ["text"])


def test_dimensions_are_those_of_the_backbone_wanted(spark: SparkSession) -> None:
    table = features(
        spark,
        (0, "text", "new", "h", [1.0, 2.0]),
        (1, "text", "new", "h", [1.0, 2.0]),
        (0, "text", "old", "h", [1.0]),
    )
    assert measure(table, {"text": "new", "image": "net"}) == ({"text": 2}, {"text": 2})
    longer = table.unionByName(features(spark, (2, "text", "new", "h", [1.0, 2.0, 3.0])))
    with pytest.raises(InputError, match="one length, seen 2 to 3"):
        measure(longer, {"text": "new"})


def test_batches_are_small_within_the_block_only(spark: SparkSession) -> None:
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    with small_arrow_batches(spark):
        assert spark.conf.get(key) == "64"
    assert spark.conf.get(key) == before
