from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest
import torch

from qarm.config.encoder import Encoder
from qarm.encoders import artifact
from qarm.encoders.backbones import backbone_id
from qarm.encoders.fusion import ItemBatch, ItemEncoder
from qarm.errors import InputError, MissingStageError
from qarm.lake import manifest
from qarm.lake.tables import Lake
from qarm.ledger import StageResult
from qarm.pipeline.context import Context
from qarm.stages import embed_catalog
from tests.lakes.encoders import item

pytestmark = pytest.mark.spark

GENRES = [{"genre": ["war"]}, {"genre": ["drama", "war"]}, None, {"genre": []}]
ROWS = [
    item(0, text="red mug", attributes=GENRES[0]),
    item(1, text="blue mug", attributes=GENRES[1]),
    item(2, text="garden chair"),
    item(3, attributes=GENRES[3]),
    item(4, text="gone", removed_at=datetime(2020, 1, 1)),
]


@pytest.fixture
def publish(lake: Lake, tiny_text_model: str) -> Callable[..., dict[str, Any]]:
    """Publish a small encoder as stage train-alignment would."""

    def make(finetune: tuple[str, ...] = (), seed: int = 0, backbone: str = "") -> dict[str, Any]:
        config = Encoder(
            text_backbone=tiny_text_model, dimensions=8, hidden=4, attribute_buckets=32
        )
        torch.manual_seed(seed)
        encoder = ItemEncoder(config, {"text": 16}, attributes=True, finetune=finetune)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
        names = {"text": backbone or backbone_id(config, "text")}
        written = artifact.save(f"{lake.root}/artifacts/encoder-{seed}", encoder.eval(), names)
        manifest.publish(
            lake.root,
            manifest.Manifest(
                stage="train-alignment",
                run_id="test",
                config_hash="",
                code_version="",
                inputs={},
                outputs={},
                artifacts={"encoder": written},
            ),
        )
        return written

    return make


@pytest.fixture
def settings(tiny_text_model: str) -> dict[str, Any]:
    """Configuration of the stage."""
    return {"encoder": {"text_backbone": tiny_text_model}}


def table(context: Context) -> dict[str, Any]:
    rows = context.lake.read(context.outputs["item_embeddings"]).collect()
    return {row.item_id: row for row in rows}


def test_whole_catalogue_under_each_encoder_then_nothing_then_what_changed(
    publish: Callable[..., dict[str, Any]],
    settings: dict[str, Any],
    write_items: Callable,
    make_context: Callable[..., Context],
) -> None:
    def run() -> tuple[Context, StageResult]:
        context = make_context("embed-catalog", **settings)
        result = embed_catalog.run(context)
        for ledger in result.ledgers:
            ledger.close("test")
        return context, result

    def check_whole(context: Context, version: str) -> dict[str, Any]:
        found = table(context)
        assert sorted(found) == ["i0", "i1", "i2", "i3"]
        assert found["i1"].modalities == ["text", "attributes"]
        assert found["i3"].modalities == []
        assert {row.encoder_version for row in found.values()} == {version}
        vectors = np.array([row.vector for row in found.values()])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        encoder, _ = artifact.load(context.artifact("train-alignment", "encoder")["uri"])
        empty = torch.nn.functional.normalize(encoder.empty, dim=0).detach().numpy()
        np.testing.assert_allclose(found["i3"].vector, empty, atol=1e-6)
        return found

    # A trained backbone encodes raw content; its features are not kept.
    trained = publish(finetune=("text",), seed=2)
    write_items(ROWS)
    context, result = run()
    assert result.ledgers[0].dropped == {"removed_item": 1}
    assert result.facts["without_content"] == 1
    found = check_whole(context, trained["version"])
    encoder, _ = artifact.load(trained["uri"])
    batch = ItemBatch(
        1,
        {},
        {"text": torch.ones(1, dtype=torch.bool)},
        {"text": ["garden chair"]},
        offsets=torch.tensor([0, 0]),
    )
    expected = encoder(batch)[0].detach().numpy()
    np.testing.assert_allclose(found["i2"].vector, expected, atol=1e-5)
    assert "item_features" not in context.outputs or not [
        row
        for row in context.lake.read(context.outputs["item_features"]).collect()
        if row.modality == "text"
    ]

    publish(backbone="minilm-0/64")
    with pytest.raises(InputError, match=r"trained on text features of minilm-0/64"):
        run()

    version = publish(seed=1)["version"]
    context, result = run()
    assert (result.facts["encoded"], result.facts["unchanged"]) == (4, 0)
    first = check_whole(context, version)
    written = context.outputs["item_embeddings"]

    context, again = run()
    assert context.outputs["item_embeddings"] == written  # no commit at all
    assert (again.facts["encoded"], again.facts["unchanged"]) == (0, 4)

    write_items([ROWS[0], item(1, text="green mug"), ROWS[3], item(5, text="new")])
    context, changed = run()
    assert (changed.facts["encoded"], changed.facts["unchanged"]) == (2, 2)
    last = table(context)
    assert sorted(last) == ["i0", "i1", "i3", "i5"]
    assert last["i0"] == first["i0"]
    assert last["i1"].vector != first["i1"].vector
    assert last["i1"].modalities == ["text"]


def test_without_an_encoder(settings: dict[str, Any], make_context: Callable[..., Context]) -> None:
    with pytest.raises(MissingStageError, match="train-alignment"):
        embed_catalog.run(make_context("embed-catalog", **settings))
