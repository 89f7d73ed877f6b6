"""A small random log with many equal timestamps, as the tables that build-samples reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from qarm.codes.codebook import Codebook
from qarm.config import Config
from qarm.lake import manifest
from qarm.lake.tables import Lake
from qarm.ledger import StageResult
from qarm.pipeline.context import Context
from schemas import TABLES

START = datetime(2024, 3, 30, 23, 59, 50)  # so that the log crosses a day
START_SECOND = 1_711_843_190


@dataclass(frozen=True)
class Event:
    """One event of the log; ``second`` counts from START."""

    user: int
    item: int
    second: int
    rating: int
    part: str

    @property
    def positive(self) -> bool:
        return self.rating >= 4


def random_log(
    users: int = 12, items: int = 15, events: int = 300, seconds: int = 40, seed: int = 0
) -> list[Event]:
    """Events with unique (user, item, second), split 70/15/15 by time."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, int, int], int] = {}
    while len(found) < events:
        user, item = int(rng.integers(users)), int(rng.zipf(1.5) % items)
        found[user, item, int(rng.integers(seconds))] = int(rng.integers(1, 6))

    def part(second: int) -> str:
        return "train" if second < 0.7 * seconds else "valid" if second < 0.85 * seconds else "test"

    return [Event(u, i, s, r, part(s)) for (u, i, s), r in found.items()]


def tables(spark: SparkSession, log: list[Event]) -> tuple[DataFrame, DataFrame]:
    """(interactions, event_splits) with the columns that samples need, of the schemas' types."""
    interactions = [
        (
            str(e.user),
            str(e.item),
            "rating",
            START + timedelta(seconds=e.second),
            e.second,
            e.user,
            e.item,
            e.positive,
            {"positive": float(e.positive), "top": float(e.rating == 5)},
            float(e.rating),
            1.0,
            1,
            None,
            (START + timedelta(seconds=e.second)).date(),
        )
        for e in log
    ]
    splits = [
        ("s", *row[:4], e.user, e.item, e.part) for row, e in zip(interactions, log, strict=True)
    ]
    return (
        spark.createDataFrame(interactions, _ddl(TABLES["interactions"])),
        spark.createDataFrame(splits, _ddl(TABLES["event_splits"])),
    )


def _ddl(table) -> str:
    return ", ".join(f"`{c.name}` {c.type}" for c in table.columns)


@pytest.fixture(scope="session")
def log() -> list[Event]:
    return random_log()


@pytest.fixture(scope="session")
def positions() -> list[Event]:
    """A log without times: the last event of each user is in test, the one before in valid."""
    log = random_log(users=25, items=15, events=250, seconds=200, seed=3)
    parts = {}
    for user in {e.user for e in log}:
        own = sorted((e for e in log if e.user == user), key=lambda e: (e.second, e.item))
        names = ["train"] * (len(own) - 2) + ["valid", "test"]
        parts.update(zip(own, names, strict=True))
    return [replace(e, part=parts[e]) for e in log]


def context_on(spark: SparkSession, root: Path, stage: str, **sections: object) -> Context:
    """Context of a stage on the lake under ``root``."""
    config = Config.model_validate({"lake": str(root / "lake"), **sections})
    return Context(
        config=config,
        spark=spark,
        lake=Lake(spark, config.lake),
        stage=stage,
        run_id=f"test-{stage}",
        code_version="test",
        config_hash="test",
    )


CODEBOOK = Codebook(
    levels=tuple(
        np.random.default_rng(level).standard_normal((4, 8)).astype(np.float32)
        for level in range(2)
    ),
    anchors=np.random.default_rng(9).standard_normal((6, 8)).astype(np.float32),
    anchor_items=np.arange(6),
    encoder_version="e1",
)


def publish_log(context: Context, log: list[Event], **facts: object) -> None:
    """Write interactions and event_splits as stage ingest would."""
    frames = dict(zip(("interactions", "event_splits"), tables(context.spark, log), strict=True))
    facts = {"labels": ["positive", "top"], "has_mine": False, **facts}
    _publish(context, "ingest", frames, facts=facts)


def publish_codes(context: Context, items: int) -> None:
    """Write item_embeddings, codebooks and semantic_ids of random vectors; item 0 has none."""
    vectors = np.random.default_rng(4).standard_normal((items, 8)).astype(np.float32)
    rq, _ = CODEBOOK.rq(vectors)
    vq = CODEBOOK.vq(vectors, 3)
    embeddings, codes = [], []
    for i in range(1, items):
        embeddings.append((str(i), i, "e1", "h", ["text"], vectors[i].tolist()))
        code = (rq[i].tolist(), None, vq[i].tolist())
        codes.append((str(i), i, CODEBOOK.codebook_id, "e1", "h", START, 0.0, *code))
    spark = context.spark
    artifact = {"codebook": {"uri": "", "version": CODEBOOK.codebook_id}}
    for stage, name, rows in (
        ("embed-catalog", "item_embeddings", embeddings),
        ("assign-codes", "semantic_ids", codes),
    ):
        _publish(context, stage, {name: spark.createDataFrame(rows, _ddl(TABLES[name]))})
    frame = spark.createDataFrame(CODEBOOK.to_rows())
    _publish(context, "fit-codebooks", {"codebooks": frame}, artifacts=artifact)


def _publish(
    context: Context, stage: str, frames: dict[str, DataFrame], facts=None, artifacts=None
) -> None:
    refs = {n: context.lake.overwrite(TABLES[n], df, {"stage": stage}) for n, df in frames.items()}
    manifest.publish(
        context.lake.root,
        manifest.Manifest(
            stage=stage,
            run_id="r",
            config_hash="c",
            code_version="v",
            inputs={},
            outputs={name: ref.as_dict() for name, ref in refs.items()},
            facts=facts or {},
            artifacts=artifacts or {},
        ),
    )


def publish_outputs(context: Context, result: StageResult) -> None:
    """Publish what a stage has written, for the next one."""
    outputs = {name: ref.as_dict() for name, ref in context.outputs.items()}
    manifest.publish(
        context.lake.root,
        manifest.Manifest(
            stage=context.stage,
            run_id="r",
            config_hash="c",
            code_version="v",
            inputs={},
            outputs=outputs,
            facts=result.facts,
            artifacts=result.artifacts,
        ),
    )
