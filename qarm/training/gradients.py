"""Gradients of the weighted mean loss over the rows of all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qarm.training import collectives

if TYPE_CHECKING:
    from torch import Tensor, nn


def reduce_gradients(model: nn.Module, loss: Tensor, weight: Tensor) -> tuple[float, float]:
    """Sum the gradients, losses and weights of all ranks, and divide by the total weight.

    Called after ``loss.backward()`` on the weighted *sum* of losses of this rank's rows. Each
    parameter's ``grad`` becomes that of the weighted mean over the rows of all ranks. A trainable
    parameter without a gradient counts as zeros, so that all ranks reduce, and the optimiser
    updates, the same parameters in every step.
    Dense gradients travel as one tensor per type; those of ``sparse=True`` embeddings as coalesced
    rows.

    Args:
        loss: scalar, sum of weight x loss over this rank's rows.
        weight: scalar, sum of their weights.

    Returns:
        Mean loss and total weight over all ranks. With a total weight of 0 gradients stay 0.
    """
    import torch

    scalars = torch.stack([value.detach().double().cpu() for value in (loss, weight)])
    dense, sparse = _split_gradients(model)
    rows = [_touched_rows(parameter) for parameter in sparse]
    if collectives.size() > 1:
        groups = [[scalars], *([_gradient(p) for p in group] for group in dense)]
        parts = [part for pair in rows for part in pair]
        (scalars, *sums), parts = collectives.exchange(groups, parts, "gradients")
        rows = list(zip(parts[::2], parts[1::2], strict=True))
        for group, flat in zip(dense, sums, strict=True):
            pieces = flat.split([p.numel() for p in group])
            for parameter, piece in zip(group, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
    total, weights = scalars.tolist()
    scale = 1.0 / weights if weights else 0.0
    for parameter in (p for group in dense for p in group):
        parameter.grad = _gradient(parameter).mul_(scale)
    for parameter, (numbers, values) in zip(sparse, rows, strict=True):
        parameter.grad = _sum_rows(parameter, numbers, values.mul_(scale))
    return total * scale, weights


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over ranks (see ``reduce_gradients``)."""
    import torch

    reduce_gradients(model, torch.zeros(()), torch.ones(()))


def _split_gradients(model: nn.Module) -> tuple[list[list[nn.Parameter]], list[nn.Parameter]]:
    """Trainable parameters: dense ones grouped by type and device, and those declared sparse."""
    declared = {id(m.weight) for m in model.modules() if getattr(m, "sparse", False) is True}
    groups: dict[Any, list[nn.Parameter]] = {}
    sparse = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in declared:
            sparse.append(parameter)
        else:
            groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(groups.values()), sparse


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient, dense; zeros where there is none."""
    import torch

    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def _touched_rows(parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Non-zero rows of this rank's gradient, each once: their numbers, and the rows."""
    import torch

    gradient = parameter.grad
    if gradient is None:
        rows = torch.zeros(0, dtype=torch.int64, device=parameter.device)
        return rows, parameter.new_zeros((0, *parameter.shape[1:]))
    gradient = (gradient if gradient.is_sparse else gradient.to_sparse(1)).coalesce()
    return gradient.indices()[0], gradient.values()


def _sum_rows(parameter: nn.Parameter, rows: Tensor, values: Tensor) -> Tensor:
    """Coalesced sparse gradient: values with the same row number are summed."""
    import torch

    return torch.sparse_coo_tensor(
        rows.to(parameter.device)[None],
        values.to(parameter),
        parameter.shape,
        check_invariants=False,
        is_coalesced=collectives.size() == 1,
    ).coalesce()
