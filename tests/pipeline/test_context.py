"""The argument of a stage: pinned reads, lineage, the run's time."""

from __future__ import annotations

from datetime import datetime

import pytest

from qarm.errors import ConfigError, MissingStageError
from qarm.lake import manifest
from qarm.pipeline.context import open_context
from schemas import id_vectors


def _publish(context, stage: str, **fields) -> None:
    manifest.publish(context.lake.root, manifest.Manifest(stage, "r", "c", "v", {}, {}, **fields))


@pytest.mark.spark
def test_facts_artifacts_and_time(make_context) -> None:
    context = make_context("evaluate")
    assert context.facts("ingest") == {}
    assert context.now == datetime(1970, 1, 1)
    with pytest.raises(MissingStageError, match="needs encoder of stage train-alignment, which"):
        context.artifact("train-alignment", "encoder")
    _publish(context, "ingest", facts={"as_of": "2024-01-02T00:00:00"})
    _publish(context, "train-alignment", artifacts={"encoder": {"uri": "u", "version": "1"}})
    assert context.now == datetime(2024, 1, 2)
    assert context.artifact("train-alignment", "encoder")["uri"] == "u"
    context.as_of = datetime(2023, 1, 1)
    assert context.now == datetime(2023, 1, 1)
    assert context.work_dir("a").endswith("/artifacts/evaluate/test-evaluate/a")


@pytest.mark.spark
def test_an_earlier_version_can_be_published_again(spark, make_context) -> None:
    context = make_context("mine-pairs")
    with pytest.raises(ConfigError, match="expected version 0, the lake has no such table"):
        context.pin(id_vectors.TABLE, 0)
    rows = spark.sql("SELECT 0L item_idx, 'als' model, array(1f) vector")
    full = context.overwrite(id_vectors.TABLE, rows).version
    context.overwrite(id_vectors.TABLE, rows.where("false"))
    assert context.table("id_vectors").count() == 0
    context.pin(id_vectors.TABLE, full)
    assert context.table("id_vectors").count() == 1
    with pytest.raises(ConfigError, match="expected version 7, the lake has versions up to 2"):
        context.pin(id_vectors.TABLE, 7)


@pytest.mark.spark
def test_a_command_adopts_only_the_tables_that_it_reads(spark, make_context, tmp_path) -> None:
    path = str(tmp_path / "own")
    spark.sql("SELECT 4L item_idx, array(1.0D) vector").write.parquet(path)
    tables = {"id_vectors": path, "item_pairs": str(tmp_path / "nowhere")}
    config = make_context("test", external={"tables": tables}).config
    context = open_context(config, spark, "export-codes", ("id_vectors", "items"))
    assert context.ref("id_vectors").path.endswith("external_id_vectors")
    assert set(context.adopted) == {"id_vectors"}
