from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qarm.encoders import artifact
from qarm.encoders.fusion import ItemBatch, ItemEncoder
from qarm.errors import InputError
from tests.encoders.test_fusion import config, encoder, items

BACKBONES = {"text": "minilm-1/128", "image": "net-1"}


def test_loaded_encoder_gives_the_same_vectors(tmp_path: Path) -> None:
    made = encoder()
    written = artifact.save(str(tmp_path / "encoder"), made, BACKBONES)
    loaded, card = artifact.load(written["uri"])
    assert torch.equal(made(items()), loaded(items()))
    assert card["version"] == written["version"]
    assert card["backbones"] == BACKBONES
    assert written["dimensions"] == 8
    assert written["modalities"] == ["image", "text", "attributes"]
    assert not loaded.training


def test_version_is_that_of_the_contents(tmp_path: Path) -> None:
    made = encoder()
    first = artifact.save(str(tmp_path / "a"), made, BACKBONES)["version"]
    assert artifact.save(str(tmp_path / "b"), made, BACKBONES)["version"] == first
    other = artifact.save(str(tmp_path / "c"), made, {**BACKBONES, "text": "minilm-2/128"})
    assert other["version"] != first
    with torch.no_grad():
        made.empty[0] += 1
    assert artifact.save(str(tmp_path / "d"), made, BACKBONES)["version"] != first


def test_trained_backbone_is_part_of_it(tmp_path: Path, tiny_text_model: str) -> None:
    made = ItemEncoder(config(text_backbone=tiny_text_model), {"text": 16}, finetune=["text"])
    with torch.no_grad():
        for parameter in made.backbones.parameters():
            parameter += 0.05
    written = artifact.save(str(tmp_path / "encoder"), made.eval(), {"text": "tiny"})
    loaded, _ = artifact.load(written["uri"])
    batch = ItemBatch(2, {}, {"text": torch.ones(2, dtype=torch.bool)}, {"text": ["a b", "c"]})
    assert torch.allclose(made(batch), loaded(batch), atol=1e-6)


def test_missing_and_damaged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no encoder at"):
        artifact.load(str(tmp_path / "nothing"))
    uri = tmp_path / "encoder"
    artifact.save(str(uri), encoder(), BACKBONES)
    weights = uri / artifact.WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(InputError, match="is damaged"):
        artifact.load(str(uri))
    (uri / artifact.CARD_FILE).write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        artifact.load(str(uri))
