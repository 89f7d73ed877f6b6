"""The encoder on disk: ``encoder.safetensors`` and ``encoder.json``, versioned by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from qarm.config.encoder import Encoder
from qarm.encoders.fusion import ATTRIBUTES, ItemEncoder
from qarm.errors import InputError
from qarm.lake import files

WEIGHTS_FILE = "encoder.safetensors"
CARD_FILE = "encoder.json"
FORMAT = 1


def save(uri: str, encoder: ItemEncoder, backbones: Mapping[str, str]) -> dict[str, Any]:
    """Write the encoder to the folder ``uri``.

    Args:
        uri: folder; created if needed.
        encoder: its weights are stored, including means of features and trained backbones.
        backbones: modality -> ``backbone_id`` of the features it was trained on.

    Returns:
        {"uri", "version", "dimensions", "modalities"}; the version is the first 16 hex digits of
        the SHA-256 of the contents.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()}
    unshared, pointers = {}, set()
    for name, tensor in tensors.items():  # safetensors refuses tensors that share memory
        unshared[name] = tensor.clone() if tensor.data_ptr() in pointers else tensor
        pointers.add(tensor.data_ptr())
    weights = save_tensors(unshared)
    card = {
        "format": FORMAT,
        "config": encoder.config.model_dump(mode="json"),
        "feature_dims": encoder.feature_dims,
        "attributes": ATTRIBUTES in encoder.modalities,
        "finetune": list(encoder.finetune),
        "backbones": dict(sorted(backbones.items())),
    }
    version = _version(weights, card)
    files.write_bytes(files.join(uri, WEIGHTS_FILE), weights)
    text = json.dumps({**card, "version": version}, indent=1, sort_keys=True)
    files.write_text(files.join(uri, CARD_FILE), text)
    return {
        "uri": uri,
        "version": version,
        "dimensions": encoder.config.dimensions,
        "modalities": list(encoder.modalities),
    }


def load(uri: str) -> tuple[ItemEncoder, dict[str, Any]]:
    """The encoder, in evaluation mode, and its card.

    Raises:
        InputError: files are missing, damaged, or of a later format.
    """
    card_uri, weights_uri = files.join(uri, CARD_FILE), files.join(uri, WEIGHTS_FILE)
    for needed in (card_uri, weights_uri):
        if not files.exists(needed):
            raise InputError(f"no encoder at {uri}: {needed} is missing; run train-alignment")
    card = read_card(uri)
    with files.open_file(weights_uri) as file:
        weights = bytes(file.read())
    own = {key: value for key, value in card.items() if key != "version"}
    if (seen := _version(weights, own)) != card["version"]:
        raise InputError(
            f"the encoder at {uri} is damaged: its contents have version {seen}, its card says "
            f"{card['version']}; run train-alignment again"
        )
    encoder = ItemEncoder(
        Encoder.model_validate(card["config"]),
        card["feature_dims"],
        attributes=card["attributes"],
        finetune=card["finetune"],
    )
    try:
        encoder.load_state_dict(load_tensors(weights))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{weights_uri} does not hold this encoder's weights: {error}") from error
    return encoder.eval(), card


def read_card(uri: str) -> dict[str, Any]:
    """``encoder.json``.

    Raises:
        InputError: it is missing, not JSON, or of a later format.
    """
    card_uri = files.join(uri, CARD_FILE)
    try:
        card: dict[str, Any] = json.loads(files.read_text(card_uri))
    except (OSError, ValueError) as error:
        raise InputError(f"{card_uri} cannot be read ({error}); run train-alignment") from error
    if card.get("format", 0) > FORMAT:
        raise InputError(
            f"{card_uri} has format {card['format']}, this version reads up to {FORMAT}"
        )
    return card


def _version(weights: bytes, card: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    digest.update(weights)
    return digest.hexdigest()[:16]
