"""A lake with vectors, and with a catalogue and a log where asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qarm.config import Config
from qarm.lake import manifest
from qarm.lake.tables import Lake, TableRef
from qarm.pipeline.runner import run_stage
from qarm.pipeline.stages import stage
from schemas import event_splits, item_embeddings, items
from tests.lakes.copies import copy_lake

DIMENSIONS = 11
START = datetime(2024, 1, 1)
SMALL = {"rq_levels": [13, 7], "vq_anchors": 40, "vq_k": 5, "rq_iterations": 5}


def unit_vectors(n: int, seed: int = 0) -> np.ndarray:
    """(n, DIMENSIONS) float32 of unit length."""
    x = np.random.default_rng(seed).standard_normal((n, DIMENSIONS))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def catalogue() -> dict[str, np.ndarray]:
    """The vectors of ``coded_lake``: items i0 to i59, and i60 whose vector is zero."""
    vectors = {f"i{n}": v for n, v in enumerate(unit_vectors(60))}
    return vectors | {"i60": np.zeros(DIMENSIONS, np.float32)}


class World:
    """Writes what earlier stages would have published, and runs the stages of codes."""

    def __init__(self, spark, lake, config: Config) -> None:
        self.spark, self.lake, self.config = spark, lake, config

    def publish(self, name: str, ref, **facts) -> None:
        """A manifest of stage ``name`` with one more table in it."""
        before = manifest.find(self.lake.root, name)
        outputs = dict(before.outputs) if before else {}
        outputs[ref.name] = ref.as_dict()
        known = {**(before.facts if before else {}), **facts}
        run_id = f"{name}-{ref.name}-{ref.version}"
        manifest.publish(
            self.lake.root,
            manifest.Manifest(name, run_id, "c", "v", {}, outputs, facts=known),
        )

    def frame(self, vectors: dict[str, np.ndarray], encoder: str = "e1", mark: str = ""):
        """Rows of item_embeddings; the item_idx of "i17" is 17."""
        rows = [
            (i, int(i[1:]), encoder, f"{mark}{v.tobytes().hex()[:16]}", ["text"], v.tolist())
            for i, v in vectors.items()
        ]
        return self.spark.createDataFrame(
            rows,
            "item_id string, item_idx bigint, encoder_version string, content_hash string, "
            "modalities array<string>, vector array<float>",
        )

    def vectors(
        self, vectors: dict[str, np.ndarray], encoder: str = "e1", mark: str = ""
    ) -> TableRef:
        """Publish item_embeddings, rows as in ``frame``; the version that was written."""
        df = self.frame(vectors, encoder, mark)
        ref = self.lake.overwrite(item_embeddings.TABLE, df, {})
        self.publish("embed-catalog", ref)
        return ref

    def log(self, catalogue: Iterable[str], events: dict[str, int]) -> None:
        """Publish items, so many training events of some of them, and 66 less those of test."""
        rows = [(i, int(i[1:]), "h", "string") for i in catalogue]
        df = self.spark.createDataFrame(
            rows, "item_id string, item_idx bigint, content_hash string, source_type string"
        )
        self.publish("ingest", self.lake.overwrite(items.TABLE, df, {}), has_mine=False)
        splits = [
            ("s", f"u{n}", i, "e", START + timedelta(seconds=n), n, int(i[1:]), part)
            for i, count in events.items()
            for part, many in (("train", count), ("test", 66 - count))
            for n in range(0 if part == "train" else 1000, many if part == "train" else 1000 + many)
        ]
        df = self.spark.createDataFrame(
            splits,
            "split_id string, user_id string, item_id string, event string, ts timestamp, "
            "user_idx bigint, item_idx bigint, part string",
        )
        self.publish("ingest", self.lake.overwrite(event_splits.TABLE, df, {}))

    def run(self, name: str, **codes) -> dict:
        """Run a stage of codes with other settings in [codes]; its entry of summary.json."""
        tree = self.config.model_dump()
        tree["codes"] |= codes
        return run_stage(stage(name), Config.model_validate(tree), self.spark)

    def table(self, name: str):
        """The published table."""
        return self.lake.read(manifest.pinned(self.lake.root, name))


def touched(world: World, since: int) -> list[tuple[str, str]]:
    """(item_id, kind of change) in the feed of semantic_ids after version ``since``."""
    feed = (
        world.spark.read.format("delta")
        .option("readChangeFeed", "true")
        .option("startingVersion", since + 1)
        .load(world.lake.path("semantic_ids"))
    )
    rows = feed.select("item_id", "_change_type").collect()
    return sorted((r["item_id"], r["_change_type"]) for r in rows)


@pytest.fixture
def make_world(spark, lake):
    def make(**sections) -> World:
        sections.setdefault("codes", SMALL)
        return World(spark, lake, Config.model_validate({"lake": lake.root, **sections}))

    return make


@pytest.fixture(scope="session")
def coded_lake(spark, tmp_path_factory) -> Lake:
    """A lake with the vectors of ``catalogue``, a codebook fitted on them, and their codes."""
    lake = Lake(spark, str(tmp_path_factory.mktemp("coded") / "lake"))
    world = World(spark, lake, Config.model_validate({"lake": lake.root, "codes": SMALL}))
    world.vectors(catalogue())
    world.run("fit-codebooks")
    world.run("assign-codes")
    return lake


@pytest.fixture
def make_coded(coded_lake, lake, make_world):
    """Make a world whose lake is a copy of ``coded_lake``, with or without the codes."""

    def make(*, codes: bool = True) -> World:
        copy_lake(coded_lake, lake)
        if not codes:
            Path(lake.root, "manifests", "assign-codes.json").unlink()
            shutil.rmtree(Path(lake.root, "tables", "semantic_ids"))
        return make_world()

    return make


@pytest.fixture
def write_vectors(tmp_path):
    """Write a user's Parquet file of (item_id, vector); returns its path."""

    def write(vectors: dict[str, np.ndarray], name: str = "my.parquet", **columns) -> str:
        path = tmp_path / name
        table = {"item_id": list(vectors), "vector": [v.tolist() for v in vectors.values()]}
        pq.write_table(pa.table({**table, **columns}), path)
        return str(path)

    return write
