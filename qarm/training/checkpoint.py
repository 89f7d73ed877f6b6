"""Checkpoints: model and optimiser as safetensors, and a manifest that is written last.

A checkpoint is a folder ``step-<number>`` of ``model.safetensors``, ``optimizer.safetensors`` and
``manifest.json``. The manifest holds the hashes of the other two. A folder without a manifest, or
with other content, is damaged, and the previous checkpoint is used. Folders are URIs; each file is
written atomically.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qarm.errors import TrainingError
from qarm.lake import files
from qarm.training.state import flatten, separate, unflatten

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
MANIFEST_FILE = "manifest.json"

_FORMAT = 2
_STEP = re.compile(r"^step-(\d+)$")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, step, and manifest."""

    folder: str
    step: int
    manifest: dict[str, Any]


def save(
    folder: str,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    manifest: Mapping[str, Any],
    keep: int = 2,
) -> Checkpoint:
    """Write a checkpoint, then remove those that are not kept.

    Args:
        folder: URI of the folder of checkpoints.
        step: optimiser steps done; a checkpoint of the same step is replaced.
        manifest: JSON-able facts: epoch, reader position, config hash, table versions, metrics;
            ``is_best: True`` marks the best so far, which is kept beside the latest.
        keep: number of latest checkpoints to keep.
    """
    target = files.join(folder, f"step-{step:010d}")
    files.remove_tree(target)
    tensors, scalars = flatten(optimizer.state_dict())
    hashes = {
        MODEL_FILE: _write_tensors(files.join(target, MODEL_FILE), model.state_dict()),
        OPTIMIZER_FILE: _write_tensors(files.join(target, OPTIMIZER_FILE), tensors),
    }
    content = {
        **manifest,
        "format": _FORMAT,
        "step": step,
        "sha256": hashes,
        "optimizer": scalars,
    }
    text = json.dumps(content, indent=1, sort_keys=True)
    files.write_text(files.join(target, MANIFEST_FILE), text)
    _prune(folder, step, keep)
    return Checkpoint(target, step, content)


def latest(folder: str) -> Checkpoint | None:
    """The newest complete checkpoint; damaged ones are skipped with a warning."""
    return _newest_complete(folder, best=False)


def best(folder: str) -> Checkpoint | None:
    """The newest complete checkpoint that was saved as the best so far."""
    return _newest_complete(folder, best=True)


def load(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Load weights, and the optimiser's state if an optimiser is given.

    Raises:
        TrainingError: the checkpoint's tensors do not fit the model or the optimiser.
    """
    tensors = _read_tensors(files.join(checkpoint.folder, MODEL_FILE))
    try:
        model.load_state_dict(tensors)
        if optimizer is not None:
            state = _read_tensors(files.join(checkpoint.folder, OPTIMIZER_FILE))
            optimizer.load_state_dict(unflatten(state, checkpoint.manifest["optimizer"]))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the checkpoint {checkpoint.folder} is of another model or optimiser: {error}. "
            "Remove the folder, or restore the configuration"
        ) from error


def _steps(folder: str) -> list[int]:
    """Steps with a folder, newest first."""
    matches = (_STEP.match(name) for name in files.list_dir(folder))
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def _newest_complete(folder: str, best: bool) -> Checkpoint | None:
    for step in _steps(folder):
        target = files.join(folder, f"step-{step:010d}")
        manifest, fault = _read_manifest(target)
        if manifest is not None:
            if best and not manifest.get("is_best"):
                continue
            fault = _damage(target, manifest)
            if fault is None:
                return Checkpoint(target, step, manifest)
        logger.warning("checkpoint %s is not used: %s; trying the previous one", target, fault)
    return None


def _read_manifest(target: str) -> tuple[dict[str, Any] | None, str | None]:
    """The manifest, or None and the reason."""
    uri = files.join(target, MANIFEST_FILE)
    if not files.exists(uri):
        return None, "it has no manifest, so it was not completed"
    try:
        manifest = json.loads(files.read_text(uri))
    except ValueError as error:
        return None, f"its manifest is not JSON ({error})"
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        return None, f"its manifest is not of format {_FORMAT}"
    return manifest, None


def _damage(target: str, manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with the files, if anything."""
    for name, expected in manifest["sha256"].items():
        uri = files.join(target, name)
        if not files.exists(uri):
            return f"{name} is missing"
        if (seen := _hash(uri)) != expected:
            return f"{name} has the hash {seen[:12]}, the manifest says {expected[:12]}"
    return None


def _prune(folder: str, newest: int, keep: int) -> None:
    """Remove all but the ``keep`` latest and the best, and folders that were never completed."""
    # Steps beyond the newest were written by an earlier run; this one resumed before them.
    kept, has_best = 0, False
    for step in _steps(folder):
        target = files.join(folder, f"step-{step:010d}")
        manifest, _ = _read_manifest(target) if step <= newest else (None, None)
        is_best = manifest is not None and bool(manifest.get("is_best")) and not has_best
        if manifest is None or (kept >= keep and not is_best):
            files.remove_tree(target)
            continue
        kept += 1
        has_best = has_best or is_best


def _write_tensors(uri: str, tensors: Mapping[str, Tensor]) -> str:
    """Write atomically; returns the SHA-256 of the file."""
    from safetensors.torch import save as to_bytes
    from safetensors.torch import save_file

    tensors = separate(tensors)
    path = files.local_path(uri)
    if path is None:
        content = to_bytes(tensors)
        files.write_bytes(uri, content)
        return hashlib.sha256(content).hexdigest()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        save_file(tensors, temporary)
        digest = _hash(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # a part of it may be what fills the disk
            os.remove(temporary)
        raise
    return digest


def _read_tensors(uri: str) -> dict[str, Tensor]:
    from safetensors.torch import load as from_bytes
    from safetensors.torch import load_file

    path = files.local_path(uri)
    if path is not None:
        return dict(load_file(path))
    with files.open_file(uri) as file:
        return dict(from_bytes(file.read()))


def _hash(uri: str) -> str:
    digest = hashlib.sha256()
    with files.open_file(uri) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
