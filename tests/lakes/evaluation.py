"""A lake so small that every test pair can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from qarm.config import Config
from qarm.lake.tables import Lake
from qarm.pipeline.context import Context
from schemas import TABLES

START = datetime(2026, 1, 1, tzinfo=UTC)

#: user, item, day, part.
EVENTS = [
    (1, 0, 1, "train"),
    (1, 2, 2, "train"),
    (1, 1, 20, "test"),  # User2Item: 0 -> 1
    (1, 3, 21, "test"),  # 2 -> 3
    (2, 2, 3, "train"),
    (2, 3, 20, "test"),  # 2 -> 3 again
    (2, 5, 21, "test"),  # no ID vector: no pair
    (3, 4, 1, "train"),
    (3, 0, 10, "valid"),
    (3, 1, 20, "test"),  # 0 -> 1 again: the window holds events of any part
    (4, 1, 20, "test"),  # nothing before
    (4, 3, 21, "test"),  # 1 -> 3
]
ID_VECTORS = {0: [1.0, 0.0], 1: [0.9, 0.1], 2: [0.0, 1.0], 3: [0.1, 0.9], 4: [0.7, 0.7]}
#: trigger, target, source.
TRAINING_PAIRS = [(3, 2, "u2i"), (1, 2, "swing"), (0, 1, "itemcf")]


def write(context: Context, name: str, rows: list[dict]) -> None:
    """Replace a table; fields that a test does not care about are filled by type."""
    table = TABLES[name]
    filler = {"string": "", "timestamp": START, "bigint": 0, "int": 0, "double": 1.0, "float": 1.0}
    filler |= {"boolean": True, "array<string>": [], "map<string,float>": {}, "date": START.date()}
    full = [
        tuple(row.get(c.name, None if c.nullable else filler.get(c.type)) for c in table.columns)
        for row in rows
    ]
    ddl = ", ".join(f"`{c.name}` {c.type}" for c in table.columns)
    context.overwrite(table, context.spark.createDataFrame(full, ddl))


def predictions(rows: int = 60) -> list[dict]:
    """Samples of two users for the floor and the base."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, rows)
    return [
        {
            "sample_id": i,
            "user_idx": i % 6,
            "item_idx": i % 5,
            "part": part,
            "variant": variant,
            "head": head,
            "label": float(label[i]),
            "score": float(np.clip(0.5 + strength * (label[i] - 0.5) + noise, 0, 1)),
            "is_repeat": i % 3 == 0,
            "item_train_events": 10 * (i % 5),
        }
        for variant, strength in (("floor", 0.1), ("base", 0.5))
        for head in ("positive", "top")
        for part in ("valid", "test")
        for i, noise in enumerate(rng.normal(0, 0.1, rows))
    ]


@pytest.fixture(scope="session")
def tiny_tables(spark, tmp_path_factory) -> Context:
    """The lake, written once; tests share its tables and differ in configuration."""
    config = Config(lake=str(tmp_path_factory.mktemp("tiny") / "lake"))
    context = Context(
        config=config,
        spark=spark,
        lake=Lake(spark, config.lake),
        stage="evaluate",
        run_id="tiny",
        code_version="test",
        config_hash="test",
    )
    events = [
        {
            "user_id": str(user),
            "item_id": str(item),
            "event": "click",
            "ts": START.replace(day=day),
            "user_idx": user,
            "item_idx": item,
            "positive": True,
            "lines": 1,
            "part": part,
        }
        for user, item, day, part in EVENTS
    ]
    pairs = [
        {"trigger": a, "target": b, "source": source, "support": 1}
        for a, b, source in TRAINING_PAIRS
    ]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 4)).tolist()
    features = [
        {"item_idx": i, "modality": modality, "vector": rng.normal(size=3).tolist()}
        for modality in ("text", "image")
        for i in range(7)
        if not (modality == "image" and i == 3)
    ]
    write(context, "interactions", events)
    write(context, "event_splits", events)
    write(context, "id_vectors", [{"item_idx": i, "vector": v} for i, v in ID_VECTORS.items()])
    write(context, "item_pairs", pairs)
    aligned = [{"item_id": str(i), "item_idx": i, "vector": v} for i, v in enumerate(vectors)]
    write(context, "item_embeddings", aligned)
    write(context, "item_features", features)
    write(context, "predictions", predictions())
    return context


@pytest.fixture(scope="session")
def tiny_context(tiny_tables: Context):
    """Makes contexts of stage evaluate on the tiny lake; keywords are configuration sections."""

    def make(**sections: object) -> Context:
        pairs = {"swing": {"min_items_per_user": 2}}
        tree = {"lake": tiny_tables.config.lake, "pairs": pairs, **sections}
        outputs = {k: v for k, v in tiny_tables.outputs.items() if k != "metrics"}
        config = Config.model_validate(tree)
        return replace(tiny_tables, config=config, outputs=outputs, inputs={})

    return make
