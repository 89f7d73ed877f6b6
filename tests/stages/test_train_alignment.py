from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qarm.alignment.encoder_task import EncoderResult, EncoderTask
from qarm.alignment.encoder_trainer import train
from qarm.encoders import artifact
from qarm.encoders.backbones import open_backbone
from qarm.encoders.embedding import embed_batches, encoder_inputs
from qarm.errors import ConfigError, InputError
from qarm.pipeline.context import Context
from qarm.pipeline.features import live_items
from qarm.stages import train_alignment
from qarm.training.wire import from_json, to_json
from tests.alignment.test_ranks import PAIRS, make_task
from tests.lakes.alignment import ITEMS, group, pairs

pytestmark = pytest.mark.spark


@pytest.fixture
def settings(tiny_text_model: str) -> dict[str, Any]:
    """A configuration that trains in a second."""
    return {
        "encoder": {
            "modalities": ["text", "attributes"],
            "text_backbone": tiny_text_model,
            "dimensions": 8,
            "hidden": 8,
            "attribute_buckets": 256,
        },
        "alignment": {
            "epochs": 4,
            "patience": 4,
            "batch_size": 64,
            "valid_share": 0.1,
            "optimizer": {"learning_rate": 0.02},
        },
        "training": {"ranks": 2},
    }


def group_gap(vectors: np.ndarray, index: list[int]) -> float:
    """Mean cosine within groups minus that across."""
    groups = np.array([group(i) for i in index])
    same = (groups[:, None] == groups) & ~np.eye(len(groups), dtype=bool)
    cosines = vectors @ vectors.T
    return float(cosines[same].mean() - cosines[groups[:, None] != groups].mean())


def vectors_of(context: Context, encoder: dict[str, Any]) -> list[dict[str, Any]]:
    """What the tasks of embed-catalog make of the catalogue, in this process."""
    card = artifact.read_card(encoder["uri"])
    features = context.lake.read(context.outputs["item_features"])
    inputs = encoder_inputs(live_items(context), features, card, card["backbones"], ITEMS)
    batches = embed_batches(
        iter(inputs.toArrow().to_batches()), uri=encoder["uri"], version=encoder["version"]
    )
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks are this process alone, which no launcher starts; their task still is JSON."""

    def launch(function: str, task: EncoderTask, *_: Any, **__: Any) -> EncoderResult:
        assert function == "qarm.alignment.encoder_trainer:train"
        return train(from_json(EncoderTask, to_json(task)))

    monkeypatch.setattr(train_alignment, "launch", launch)


@pytest.mark.horovod
def test_two_ranks_learn_what_is_bought_together(
    world: Callable[..., None],
    make_context: Callable[..., Context],
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From texts and attributes; images, which no item has, are left out."""
    world()
    settings["encoder"]["modalities"] = ["text", "image", "attributes"]
    context = make_context("train-alignment", **settings)
    result = train_alignment.run(context)
    for ledger in result.ledgers:
        ledger.close("train-alignment")
    main = result.ledgers[0]
    assert main.rows_in == len(pairs())
    assert main.dropped["removed_item"] == main.dropped["other_source"] == 1
    assert main.dropped["repeated"] == 1
    assert 0 < main.dropped["held_out"] < 0.2 * main.rows_in
    ranks = result.facts["rows_per_rank"]
    assert len(ranks) == 2
    assert min(ranks) > 0
    assert sum(ranks) == main.rows_out
    assert len(result.facts["history"]) == 4
    losses = [epoch["train_loss"] for epoch in result.facts["history"]]
    assert losses[-1] < losses[0] - 0.2
    figures = {(m.variant, m.slice): m for m in result.metrics}
    assert figures["aligned", "all"].part == "valid"
    assert figures["aligned", "all"].value == max(
        m.value for key, m in figures.items() if key[1].startswith("epoch")
    )
    table = context.table("alignment_pairs").collect()
    assert {(r.target, r.trigger, r.part) for r in table if r.source == "swing"} == {
        (r.trigger, r.target, r.part) for r in table if r.source == "swing"
    }

    encoder = result.artifacts["encoder"]
    assert encoder["modalities"] == ["text", "attributes"]
    assert encoder["dimensions"] == 8
    said = capsys.readouterr()
    assert "no item has image; the encoder is built without" in said.out + said.err
    rows = vectors_of(context, encoder)
    assert len(rows) == ITEMS
    known = [row for row in rows if row["modalities"]]
    vectors = np.array([row["vector"] for row in known])
    assert group_gap(vectors, [row["item_idx"] for row in known]) > 0.3


@pytest.mark.usefixtures("train_here")
def test_fine_tuning_trains_the_backbone(
    world: Callable[..., None], make_context: Callable[..., Context], settings: dict[str, Any]
) -> None:
    world()
    settings["encoder"]["modalities"] = ["text"]
    settings["alignment"] |= {"finetune": ["text"], "epochs": 2, "backbone_learning_rate": 0.01}
    settings["training"]["ranks"] = 1
    context = make_context("train-alignment", **settings)
    result = train_alignment.run(context)
    losses = [epoch["train_loss"] for epoch in result.facts["history"]]
    assert losses[1] < losses[0]
    encoder, card = artifact.load(result.artifacts["encoder"]["uri"])
    assert card["finetune"] == ["text"]
    frozen = open_backbone(context.config.encoder, "text")
    moved = [
        float((trained - start).detach().abs().max())
        for trained, start in zip(
            encoder.backbones["text"].parameters(), frozen.parameters(), strict=True
        )
    ]
    assert max(moved) > 1e-3
    texts = ["abc 1", "xyz 2"]
    trained = encoder.backbone("text").encode(texts)
    assert np.abs(trained - frozen.encode(texts)).max() > 1e-3
    assert torch.isfinite(torch.from_numpy(trained)).all()


def test_what_cannot_be_trained_says_why(
    world: Callable[..., None], make_context: Callable[..., Context], settings: dict[str, Any]
) -> None:
    world()
    wrong = {**settings, "alignment": {"finetune": ["image"]}}
    with pytest.raises(ConfigError, match=r"alignment.finetune names \['image'\]"):
        train_alignment.run(make_context("train-alignment", **wrong))
    wrong = {**settings, "encoder": {"modalities": ["audio"]}}
    with pytest.raises(InputError, match=r"no item has any of \['audio'\]"):
        train_alignment.run(make_context("train-alignment", **wrong))


def test_attributes_alone_are_trained_on(tmp_path: Path) -> None:
    """What is left where no item has a text: there are no features."""
    task = make_task(tmp_path)
    items = replace(task.items, feature_files=[], feature_dims={}, backbones={})
    result = train(replace(task, items=items))
    assert result.artifact["modalities"] == ["attributes"]
    assert sum(result.rows_per_rank) == PAIRS
