"""Nested training state as named tensors and JSON, which can be stored and broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def flatten(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts, lists and tuples into tensors and a JSON-able rest.

    Returns:
        Tensors by name, and the rest, in which ``{"tensor": name}`` replaces each of them. Dicts
        become lists of pairs, because their keys may be integers.

    Raises:
        TypeError: a value is not a container, a tensor or a JSON scalar.
    """
    tensors: dict[str, Tensor] = {}

    def visit(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu()
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {
                "dict": [[k, visit(v, f"{name}.{k}" if name else str(k))] for k, v in value.items()]
            }
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [visit(v, f"{name}.{i}") for i, v in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"training state {name!r} has a {type(value).__name__}, which is not JSON")

    rest = visit(state, "")
    return tensors, rest


def unflatten(tensors: Mapping[str, Tensor], rest: Any) -> Any:
    """Inverse of ``flatten``; tensors are not copied."""
    if not isinstance(rest, Mapping):
        return rest
    ((kind, content),) = rest.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(tensors, value) for key, value in content}
    values = [unflatten(tensors, value) for value in content]
    return values if kind == "list" else tuple(values)


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, copied if needed so that no two share memory, as safetensors requires.

    Tied weights are stored once per name, and are tied again when the model loads them.
    """
    separated: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        separated[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return separated


def copy_to_memory(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state that later steps do not change."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
