from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from qarm.alignment.item_store import StoreSpec
from qarm.alignment.trainer import TrainSpec
from qarm.config.alignment import Alignment
from qarm.config.encoder import Encoder
from qarm.config.training import Loader, Optimizer
from qarm.training import checkpoint
from qarm.training.launch import launch
from tests.alignment import ranks
from tests.alignment.test_item_store import MAP, write

PAIRS, CATALOGUE, WIDTH = 660, 50, 12


def train_spec(folder: Path) -> TrainSpec:
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
    store = StoreSpec(
        pair_files=pairs,
        feature_files=write(folder, "features", features),
        item_files=write(folder, "items", items),
        backbones={"text": "b"},
        feature_dims={"text": WIDTH},
        buckets=64,
        contents=[],
    )
    optimizer = Optimizer(learning_rate=1e-3, weight_decay=1e-4, warmup_steps=3)
    return TrainSpec(
        encoder=Encoder(dimensions=8, hidden=8, attribute_buckets=64, dropout=0.0).model_dump(
            mode="json"
        ),
        alignment=Alignment(epochs=1, batch_size=32, optimizer=optimizer).model_dump(mode="json"),
        train_files=pairs,
        valid_files=[],
        store=asdict(store),
        artifact_uri=str(folder / "encoder"),
        loader=Loader(shards=2, workers=1).model_dump(mode="json"),
        fit={"checkpoint_folder": str(folder / "checkpoints")},
    )


KINDS = {True: 1e-9, False: 1e-5}
"""Exact arithmetic or not -> how near two trainings come."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[tuple[int, bool], tuple]:
    """(ranks, exact) -> losses and weights of the whole trainer over an epoch."""
    found = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"world{world}")
        specs = []
        for exact in KINDS:
            (folder / str(exact)).mkdir()
            specs.append({"exact": exact, "train": train_spec(folder / str(exact)).as_dict()})
        work_dir = str(folder / "ranks")
        results = launch("tests.alignment.ranks:train_each", specs, ranks=world, work_dir=work_dir)
        for spec, result in zip(specs, results, strict=True):
            assert sum(result["rows_per_rank"]) == PAIRS
            last = checkpoint.latest(spec["train"]["fit"]["checkpoint_folder"])
            assert last is not None
            weights = load_file(f"{last.folder}/model.safetensors")
            found[world, spec["exact"]] = (result["losses"], weights)
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
def test_two_ranks_take_the_step_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    """Loss and every gradient: negatives, masks and padding are those of the global batch."""
    alone = ranks.one_step({"rows": 24})
    both = launch(
        "tests.alignment.ranks:one_step", {"rows": 24}, ranks=2, work_dir=str(tmp_path / "ranks")
    )
    assert both["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert both["weight"] == pytest.approx(alone["weight"], rel=1e-6)
    np.testing.assert_allclose(both["table"], alone["table"], atol=1e-6)
    assert both["temperature"] == pytest.approx(alone["temperature"], rel=1e-4)
    assert np.abs(alone["table"]).max() > 1e-3
