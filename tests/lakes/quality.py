"""One measured catalogue: items, a log, categories, and codes of two codebooks."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from qarm.codes.codebook import Codebook
from qarm.config import Config
from qarm.evaluation.slices import with_item_slices
from qarm.lake import manifest
from qarm.lake.tables import Lake
from schemas import items
from tests.lakes.codes import World, unit_vectors

ITEMS = 300
SIZES = [7, 5]
FIELDS = ("genre", "shop")


@dataclass
class Measured:
    """What the stage has found, and what it is held against."""

    world: World
    entry: dict[str, Any]
    x: np.ndarray
    book: Codebook
    old_book: Codebook
    events: np.ndarray
    """(n,) training events; -1: no event at all."""
    values: dict[str, list[list[str]]]
    """Field -> values of each item."""

    @property
    def figures(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """By metric, variant and slice."""
        return {(m["metric"], m["variant"], m["slice"]): m for m in self.entry["metrics"]}

    def slices(self) -> dict[str, np.ndarray]:
        """Members of each slice."""
        count = np.maximum(self.events, 0)
        trained = np.sort(count[count > 0])[::-1]
        head = max(20, trained[int(np.ceil(0.1 * len(trained))) - 1])
        return {
            "all": np.ones(len(count), bool),
            "known": self.events > 0,
            "later": self.events == 0,
            "never": self.events < 0,
            "lt5": count < 5,
            "tail": count < 20,
            "torso": (count >= 20) & (count < head),
            "head": count >= head,
        }


def _values(rng: np.random.Generator, codes: np.ndarray) -> dict[str, list[list[str]]]:
    """Genres that follow the first code in part, up to three an item; shops that follow nothing."""
    genre = []
    for i, code in enumerate(codes[:, 0]):
        many = i % 4
        drawn = rng.integers(0, 6, many).tolist()
        if many and rng.random() < 0.6:
            drawn[0] = int(code) % 3
        genre.append(sorted({f"g{v}" for v in drawn}))
    shop = [[f"s{rng.integers(0, 4)}"] if i % 3 else [] for i in range(len(codes))]
    return {"genre": genre, "shop": shop}


@dataclass
class ManyItems:
    """Frames of more items than a figure is measured on, with codes drawn at random."""

    ids: DataFrame
    vectors: DataFrame
    x: np.ndarray
    codes: np.ndarray
    sizes: list[int]
    book: SimpleNamespace
    """Levels and anchors, as in a codebook."""


@pytest.fixture(scope="session")
def many_items(spark) -> ManyItems:
    """2,000 items, none of them with a log."""
    rng = np.random.default_rng(4)
    x, sizes = unit_vectors(2000), [5, 4]
    codes = rng.integers(0, sizes, (len(x), 2))
    levels = [rng.standard_normal((size, x.shape[1])).astype("f4") for size in sizes]
    items = pa.array(range(len(x)))
    no_vq = pa.array([[]] * len(x), pa.list_(pa.int32()))
    ids = spark.createDataFrame(pa.table({"item_idx": items, "rq": codes.tolist(), "vq": no_vq}))
    vectors = pa.table({"item_idx": items, "vector": list(x)})
    return ManyItems(
        with_item_slices(ids, None, []).persist(),
        spark.createDataFrame(vectors).persist(),
        x,
        codes,
        sizes,
        SimpleNamespace(levels=levels, anchors=[]),
    )


@pytest.fixture(scope="session")
def measured(spark, tmp_path_factory) -> Measured:
    """300 items (one without a direction), coded by two codebooks in turn, and measured."""
    rng = np.random.default_rng(0)
    centres = unit_vectors(12, 5)
    x = (centres[rng.integers(0, 12, ITEMS)] + 0.3 * rng.standard_normal((ITEMS, 11))).astype("f4")
    x[17] = 0
    lake = Lake(spark, str(tmp_path_factory.mktemp("measured") / "lake"))
    config = Config.model_validate(
        {
            "lake": lake.root,
            "codes": {"rq_levels": SIZES, "vq_anchors": 30, "vq_k": 3, "rq_iterations": 4},
        }
    )
    world = World(spark, lake, config)
    names = [f"i{i}" for i in range(ITEMS)]
    world.vectors(dict(zip(names, x, strict=True)))
    events = np.where(np.arange(ITEMS) % 5 == 0, 0, rng.integers(1, 60, ITEMS))
    events[::11] = -1
    world.log(names, {n: int(e) for n, e in zip(names, events, strict=True) if e >= 0})
    books = []
    for seed in (1, 0):
        world.run("fit-codebooks", seed=seed)
        world.run("assign-codes", seed=seed)
        chosen = manifest.find(lake.root, "assign-codes").facts["codebook_id"]
        rows = world.table("codebooks").where(F.col("codebook_id") == chosen)
        books.append(Codebook.from_rows(rows.toArrow()))
    codes, _ = books[1].rq(x)
    values = _values(rng, codes)
    catalogue = [
        (n, i, "h", "string", {f: values[f][i] for f in FIELDS if values[f][i]} or None)
        for i, n in enumerate(names)
    ]
    df = spark.createDataFrame(
        catalogue,
        "item_id string, item_idx bigint, content_hash string, source_type string, "
        "attributes map<string,array<string>>",
    )
    world.publish("ingest", lake.overwrite(items.TABLE, df, {}))
    entry = world.run("quality")
    return Measured(world, entry, x, books[1], books[0], events, values)
