from __future__ import annotations

import torch

from qarm.encoders.pca import principal_axes


def blocks() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(200, 30, generator=generator) * torch.linspace(3, 0.1, 30)
    sparse = torch.randn(200, 50, generator=generator)
    return dense, sparse * (torch.rand(200, 50, generator=generator) < 0.05)


def test_axes_span_the_leading_singular_vectors() -> None:
    dense, sparse = blocks()
    axes = torch.cat(principal_axes([dense, sparse.to_sparse()], 8, seed=0))
    exact = torch.linalg.svd(torch.cat([dense, sparse], dim=1))[2][:8].T
    kept = torch.linalg.svdvals(exact.T @ axes)
    assert kept.min() > 0.99
    assert torch.allclose(axes.T @ axes, torch.eye(8), atol=1e-4)


def test_rank_below_the_dimensions_leaves_zeros() -> None:
    narrow = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    (axes,) = principal_axes([narrow], 8, seed=0)
    assert axes.shape == (3, 8)
    assert (axes[:, 3:] == 0).all()
    products = (narrow @ axes) @ (narrow @ axes).T
    assert torch.allclose(products, narrow @ narrow.T, atol=1e-3)


def test_axes_are_repeatable() -> None:
    dense, sparse = blocks()
    first = principal_axes([dense, sparse.to_sparse()], 8, seed=3)
    again = principal_axes([dense, sparse.to_sparse()], 8, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
