"""Parts of a training step besides the model: rate, precision, clipping, random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Schedule = Literal["constant", "cosine"]


def learning_rate_factor(
    step: int, warmup_steps: int, total_steps: int, schedule: Schedule
) -> float:
    """Share of the peak learning rate at ``step`` (from 0)."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Make randomness in a step depend on these four, so that nothing must be saved to resume."""
    import torch

    torch.manual_seed(_mix((seed, epoch, step, rank)))


def _mix(values: Iterable[int]) -> int:
    """One seed from several numbers."""
    import numpy as np

    state = np.random.SeedSequence([v & 0xFFFFFFFF for v in values]).generate_state(2)
    return int(state[0]) << 31 ^ int(state[1])


def autocast(model: nn.Module, wanted: bool) -> AbstractContextManager[object]:
    """bfloat16 on a CUDA device that supports it, if ``wanted``; otherwise the model's own type.

    Models with float64 weights stay exact. bfloat16 has the range of float32, so that losses need
    no scaling; weights, their gradients and the optimiser's state remain float32.
    """
    import torch

    if not wanted or not _has_bfloat16(next(model.parameters()).device):
        return nullcontext()
    if any(parameter.dtype == torch.float64 for parameter in model.parameters()):
        return nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16)


def _has_bfloat16(device: object) -> bool:
    import torch

    return getattr(device, "type", "") == "cuda" and torch.cuda.is_bf16_supported(
        including_emulation=False
    )


def clip_gradients(model: nn.Module, largest_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most ``largest_norm``.

    Unlike torch's function it also accepts (coalesced) sparse gradients.

    Returns:
        The norm before scaling.
    """
    import torch

    gradients = [
        p.grad.coalesce().values() if p.grad.is_sparse else p.grad
        for p in model.parameters()
        if p.grad is not None
    ]
    if not gradients:
        return 0.0
    norms = torch.stack([torch.linalg.vector_norm(g).double().cpu() for g in gradients])
    norm = float(torch.linalg.vector_norm(norms))
    if norm > largest_norm:
        for gradient in gradients:
            gradient.mul_(largest_norm / norm)
    return norm
