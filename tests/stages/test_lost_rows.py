"""Ledgers can fail: each stage loses a tenth of its rows in its middle, and says so.

A fault is injected in place of each function that hands rows on; all else is real.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
from tests.lakes.codes import SMALL, unit_vectors
from tests.lakes.encoders import item
from tests.lakes.ranking import context_on, publish_log
from tests.pairs.reference import random_log as random_events

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


def not_closing(result: StageResult) -> list[str]:
    """Names of the ledgers that do not close."""
    names = []
    for ledger in result.ledgers:
        try:
            ledger.close("test")
        except RowsLostError:
            names.append(ledger.name)
    return names


def test_ingest(make_context, tmp_path: Path, lossy) -> None:
    log = {"who": [f"u{n % 4}" for n in range(40)], "what": [f"i{n % 7}" for n in range(40)]}
    pq.write_table(pa.table({**log, "position": range(40)}), tmp_path / "log.parquet")
    source = {"path": [str(tmp_path / "log.parquet")], "time_format": "order"}
    names = {"user": "who", "item": "what", "time": "position"}
    context = make_context(
        "ingest",
        log={**source, **names},
        items={"from_log": True},
        split={"kind": "leave_last_n"},
    )
    lossy(merge, "merge_lines")
    with pytest.raises(RowsLostError, match="log lines"):
        close(ingest.run(context))


def test_mine_pairs(make_context, fill, spark, lossy) -> None:
    """Events are lost before the pairs are mined, and pairs after it."""
    pairs = {"sources": ["u2i"], "id_vectors": {"rank": 3, "iterations": 2}}
    context = make_context("mine-pairs", pairs=pairs)
    fill(context, random_events(1, users=16, items=16, events=170))
    items = spark.range(16).selectExpr(
        "cast(id as string) item_id", "id item_idx", "'h' content_hash", "'string' source_type"
    )
    context.overwrite(items_schema.TABLE, items)
    lossy(mine_pairs, "of_live_items")
    lossy(source_u2i, "cap_user2item")
    result = mine_pairs.run(context)
    events = "positive events of the mining period"
    assert not_closing(result) == ["item pairs", events, "User2Item pairs"]
    with pytest.raises(RowsLostError, match=r"item pairs: .*u2i over_cap"):
        close(result)


def test_features(make_context, write_items, lossy) -> None:
    write_items([item(i, audio=[float(i), 1.0]) for i in range(12)])
    context = make_context("embed-catalog", encoder={"modalities": ["audio"]})
    lossy(feature_cache, "encode_content")
    update = update_features(context, context.config.encoder)
    with pytest.raises(RowsLostError, match="items with audio features"):
        update.ledgers()[0].close("test")


def test_fit_codebooks(make_world, lossy) -> None:
    world = make_world()
    world.vectors({f"i{i}": v for i, v in enumerate(unit_vectors(60))})
    lossy(fit_codebooks, "sample_by_hash")
    with pytest.raises(RowsLostError, match="fit-codebooks, item vectors"):
        world.run("fit-codebooks")


def test_assign_codes(make_world, make_context, lossy) -> None:
    """Items are lost before codes are resolved, and moved ones after it."""
    world = make_world(codes={**SMALL, "resolve_capacity": 1})
    world.vectors({f"i{i}": v for i, v in enumerate(unit_vectors(60))})
    world.run("fit-codebooks")
    lossy(assign_codes, "assign_files")
    lossy(resolve, "_moves")
    result = assign_codes.run(make_context("assign-codes", world.config))
    moved = "newcomers beyond the capacity of their code"
    assert not_closing(result) == ["item vectors", "semantic ids", moved]


@pytest.fixture(scope="module")
def folder_with_log(spark, tmp_path_factory, log) -> Path:
    """Of a lake that only the log has been published in."""
    folder = tmp_path_factory.mktemp("log")
    publish_log(context_on(spark, folder, "build-samples"), log)
    return folder


@pytest.mark.parametrize(
    ("module", "name", "mode"),
    [(impressions, "finished", "observed"), (negatives, "with_items", "sampled")],
    ids=["finished", "with_items"],
)
def test_build_samples(spark, folder_with_log: Path, lossy, module, name, mode) -> None:
    sections = {"samples": {"history_length": 5, "negatives": mode}, "loader": {"shards": 2}}
    context = context_on(spark, folder_with_log, "build-samples", **sections)
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
