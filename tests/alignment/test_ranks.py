from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from qarm.alignment.encoder_task import EncoderTask, ItemFiles
from qarm.config.alignment import Alignment
from qarm.config.encoder import Encoder
from qarm.config.training import Loader, Optimizer, Training
from qarm.training import checkpoint
from qarm.training.launch import launch
from qarm.training.settings import FitConfig
from tests.alignment import ranks
from tests.alignment.test_item_store import MAP, write

PAIRS, CATALOGUE, WIDTH = 660, 50, 12


def make_task(folder: Path) -> EncoderTask:
    """Random pairs, texts' features for most items, attributes for all; no dropout."""
    rng = np.random.default_rng(0)
    trigger, target = rng.integers(0, CATALOGUE, (2, PAIRS))
    columns = {
        "trigger": trigger,
        "target": target,
        "weight": rng.random(PAIRS),
        "trigger_logq": np.log(rng.random(PAIRS)),
        "target_logq": np.log(rng.random(PAIRS)),
    }
    pairs = write(folder, "pairs", columns)
    known = np.arange(0, CATALOGUE, 2)
    vectors = rng.standard_normal((len(known), WIDTH)).astype(np.float32)
    features = {
        "item_idx": known,
        "modality": ["text"] * len(known),
        "backbone": ["b"] * len(known),
        "vector": pa.array(vectors.tolist(), pa.list_(pa.float32())),
    }
    attributes = [[("g", [str(i % 7), str(i % 4)])] for i in range(CATALOGUE)]
    items = {"item_idx": range(CATALOGUE), "attributes": pa.array(attributes, MAP)}
    source = ItemFiles(
        pair_files=pairs,
        feature_files=write(folder, "features", features),
        item_files=write(folder, "items", items),
        backbones={"text": "b"},
        feature_dims={"text": WIDTH},
        buckets=64,
        contents=[],
    )
    optimizer = Optimizer(learning_rate=1e-3, weight_decay=1e-4, warmup_steps=3)
    return EncoderTask(
        encoder=Encoder(dimensions=8, hidden=8, attribute_buckets=64, dropout=0.0),
        alignment=Alignment(epochs=1, batch_size=32, optimizer=optimizer),
        train_files=pairs,
        valid_files=[],
        items=source,
        artifact_uri=str(folder / "encoder"),
        loader=Loader(shards=2, workers=1),
        fit=FitConfig(checkpoint_folder=str(folder / "checkpoints")),
    )


KINDS = {True: 1e-9, False: 1e-5}
"""Exact arithmetic or not -> how near two trainings come."""


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> dict[int, tuple[list[EncoderTask], ranks.Each]]:
    """Ranks -> tasks of the whole trainer over an epoch, and what came of them."""
    found = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"world{world}")
        tasks = []
        for exact in KINDS:
            (folder / str(exact)).mkdir()
            tasks.append(make_task(folder / str(exact)))
        results = launch(
            "tests.alignment.ranks:train_each",
            ranks.Trainings(rows=24, exact=tasks[:1], fast=tasks[1:]),
            ranks.Each,
            Training(ranks=world, restarts=0),
            work_dir=str(folder / "ranks"),
        )
        found[world] = (tasks, results)
    return found


@pytest.fixture(scope="module")
def seen(launched) -> dict[tuple[int, bool], tuple]:
    """(ranks, exact) -> losses and weights."""
    found = {}
    for world, (tasks, results) in launched.items():
        for exact, task, trained in zip(KINDS, tasks, results.trained, strict=True):
            assert sum(trained.result.rows_per_rank) == PAIRS
            assert trained.result.artifact["dimensions"] == 8
            last = checkpoint.latest(task.fit.checkpoint_folder)
            assert last is not None
            weights = load_file(f"{last.folder}/model.safetensors")
            found[world, exact] = (trained.losses, weights)
    return found


@pytest.mark.horovod
@pytest.mark.parametrize(("exact", "tolerance"), KINDS.items())
def test_two_ranks_train_as_one_with_twice_the_batch(seen, exact: bool, tolerance: float) -> None:
    """Loss of each step, and every weight."""
    (losses, weights), (other_losses, other_weights) = seen[1, exact], seen[2, exact]
    assert len(losses) > 20
    assert losses[-1] != losses[0]
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=tolerance)
    for name, weight in weights.items():
        assert weight.dtype == (np.float64 if exact else np.float32), name
        np.testing.assert_allclose(
            other_weights[name], weight, rtol=0, atol=tolerance, err_msg=name
        )


@pytest.mark.horovod
def test_two_ranks_take_the_step_of_one_with_the_whole_batch(launched) -> None:
    """Loss and every gradient: negatives, masks and padding are those of the global batch."""
    alone, both = (launched[world][1].step for world in (1, 2))
    assert both["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert both["weight"] == pytest.approx(alone["weight"], rel=1e-6)
    np.testing.assert_allclose(both["table"], alone["table"], atol=1e-6)
    assert both["temperature"] == pytest.approx(alone["temperature"], rel=1e-4)
    assert np.abs(alone["table"]).max() > 1e-3
