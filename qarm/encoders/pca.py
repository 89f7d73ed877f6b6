"""Principal axes of features in several blocks, dense or sparse: initial weights of the towers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ITERATIONS = 8
_OVERSAMPLING = 16


def principal_axes(blocks: Sequence[Tensor], dimensions: int, seed: int) -> list[Tensor]:
    """The leading right singular vectors of the concatenated blocks.

    Randomised subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4). It
    needs only products with the blocks, so that sparse blocks stay sparse.

    Args:
        blocks: (rows, width) each, dense or sparse COO; not centred here.
        dimensions: number of axes.
        seed: seed of the initial subspace.

    Returns:
        (width, dimensions) for each block; axes beyond the rank of the blocks are 0.
    """
    rows = blocks[0].shape[0]
    widths = [block.shape[1] for block in blocks]
    rank = min(dimensions + _OVERSAMPLING, rows, sum(widths))
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(sum(widths), rank, generator=generator)
    basis = torch.empty(0)
    for _ in range(_ITERATIONS):
        parts = axes.split(widths)
        basis = torch.linalg.qr(sum_of(b @ p for b, p in zip(blocks, parts, strict=True)))[0]
        axes = torch.cat([b.t() @ basis for b in blocks])
    left, values, _ = torch.linalg.svd(axes, full_matrices=False)
    kept = min(dimensions, left.shape[1])
    padded = torch.zeros(sum(widths), dimensions)
    strong = values[:kept] > 1e-5 * values[0].clamp(min=1e-30)
    # The sign of an axis is arbitrary; it is fixed, so that platforms agree.
    peaks = left[:, :kept].gather(0, left[:, :kept].abs().argmax(0, keepdim=True))
    padded[:, :kept] = left[:, :kept] * strong * torch.where(peaks < 0, -1.0, 1.0)
    return list(padded.split(widths))


def sum_of(tensors: object) -> Tensor:
    """Sum of an iterable of tensors of one shape."""
    total: Tensor | None = None
    for tensor in tensors:  # type: ignore[attr-defined]
        total = tensor if total is None else total + tensor
    assert total is not None
    return total
