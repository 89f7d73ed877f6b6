"""Ledgers can fail: each stage loses a tenth of its rows in its middle, and says so.

A fault is injected in place of each function that hands rows on; all else is real.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import DataFrame

from qarm.codes import resolve
from qarm.encoders import feature_cache
from qarm.errors import RowsLostError
from qarm.ingest import merge
from qarm.ledger import StageResult
from qarm.pairs import source_u2i
from qarm.pipeline.features import update_features
from qarm.ranking import impressions, negatives
from qarm.stages import (
    assign_codes,
    build_samples,
    embed_catalog,
    fit_codebooks,
    ingest,
    mine_pairs,
    train_alignment,
)
from schemas import items as items_schema
from tests.lakes.codes import unit_vectors
from tests.lakes.encoders import item
from tests.lakes.ranking import context_on, publish_log
from tests.pairs.reference import random_log as random_events
from tests.stages.test_ingest import make_sources

pytestmark = pytest.mark.spark


@pytest.fixture
def lossy(monkeypatch) -> Callable[[object, str], None]:
    """Make a function of a module lose a tenth of the rows that it returns."""

    def inject(module: object, name: str) -> None:
        true = getattr(module, name)

        def losing(*arguments: object, **keywords: object) -> object:
            return _without_a_tenth(true(*arguments, **keywords))

        monkeypatch.setattr(module, name, losing)

    return inject


def _without_a_tenth(rows: object) -> object:
    if isinstance(rows, DataFrame):
        return rows.where("monotonically_increasing_id() % 10 <> 0")
    assert isinstance(rows, tuple)  # arrays of equal length
    return tuple(each[len(each) // 10 + 1 :] for each in rows)


def close(result: StageResult) -> None:
    for ledger in result.ledgers:
        ledger.close("test")


def test_ingest(make_context, tmp_path: Path, lossy) -> None:
    lossy(merge, "merge_lines")
    with pytest.raises(RowsLostError, match="log lines"):
        close(ingest.run(make_context("ingest", **make_sources(tmp_path))))


@pytest.mark.parametrize(
    ("module", "name", "ledger"),
    [
        (mine_pairs, "of_live_items", "positive events of the mining period"),
        (source_u2i, "cap_user2item", "item pairs: .*u2i over_cap"),
    ],
)
def test_mine_pairs(make_context, fill, spark, lossy, module, name, ledger) -> None:
    context = make_context("mine-pairs", pairs={"sources": ["u2i"], "id_vectors": {"rank": 3}})
    fill(context, random_events(1, users=16, items=16, events=170))
    items = spark.range(16).selectExpr(
        "cast(id as string) item_id", "id item_idx", "'h' content_hash", "'string' source_type"
    )
    context.overwrite(items_schema.TABLE, items)
    lossy(module, name)
    with pytest.raises(RowsLostError, match=ledger):
        close(mine_pairs.run(context))


def test_features(make_context, write_items, tiny_text_model, lossy) -> None:
    write_items([item(i, text=f"text {i}") for i in range(12)])
    encoder = {"modalities": ["text"], "text_backbone": tiny_text_model}
    context = make_context("embed-catalog", encoder=encoder)
    lossy(feature_cache, "encode_content")
    update = update_features(context, context.config.encoder)
    with pytest.raises(RowsLostError, match="items with text features"):
        update.ledgers()[0].close("test")


def test_fit_codebooks(make_world, lossy) -> None:
    world = make_world()
    world.vectors({f"i{i}": v for i, v in enumerate(unit_vectors(60))})
    lossy(fit_codebooks, "sample_by_hash")
    with pytest.raises(RowsLostError, match="fit-codebooks, item vectors"):
        world.run("fit-codebooks")


@pytest.mark.parametrize(
    ("module", "name", "settings", "ledger"),
    [
        (assign_codes, "assign_files", {}, "item vectors"),
        (resolve, "_moves", {"resolve_capacity": 1}, "newcomers beyond the capacity"),
    ],
)
def test_assign_codes(make_world, lossy, module, name, settings, ledger) -> None:
    world = make_world()
    world.vectors({f"i{i}": v for i, v in enumerate(unit_vectors(60))})
    world.run("fit-codebooks", **settings)
    lossy(module, name)
    with pytest.raises(RowsLostError, match=ledger):
        world.run("assign-codes", **settings)


@pytest.mark.parametrize(
    ("module", "name", "mode"),
    [(impressions, "finished", "observed"), (negatives, "with_items", "sampled")],
)
def test_build_samples(spark, tmp_path: Path, log, lossy, module, name, mode) -> None:
    samples = {"history_length": 5, "negatives": mode}
    context = context_on(spark, tmp_path, "build-samples", samples=samples, loader={"shards": 2})
    publish_log(context, log)
    lossy(module, name)
    with pytest.raises(RowsLostError, match="events of train, valid and test"):
        close(build_samples.run(context))


def test_train_alignment(world, make_context, monkeypatch, lossy) -> None:
    """Rows of the training table; those that ranks read are counted by ranks."""
    world()
    context = make_context("train-alignment")
    lossy(train_alignment.pairs_table, "training_table")
    ledger, _ = train_alignment._write_pairs(context)
    with pytest.raises(RowsLostError, match="item pairs"):
        ledger.close("test")


def test_embed_catalog(spark, make_context, write_items, lossy) -> None:
    write_items([item(i) for i in range(12)])
    context = make_context("embed-catalog")
    table = embed_catalog.item_embeddings.TABLE
    rows = spark.range(12).selectExpr(
        *("cast(id as string) item_id", "id item_idx", "'e' encoder_version", "'h' content_hash"),
        *("array('text') modalities", "array(cast(1 as float)) vector"),
    )
    ref = context.overwrite(table, _without_a_tenth(rows))
    ledger, _ = embed_catalog._count(context, ref)
    with pytest.raises(RowsLostError, match="items of the catalogue"):
        ledger.close("test")
