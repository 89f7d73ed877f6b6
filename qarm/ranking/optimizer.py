"""AdamW that also takes sparse gradients: only the rows of a table that were looked up change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SPARSE_ROWS = 65_536
"""Tables with more rows get sparse gradients: time and traffic of a step then depend on the batch
and not on the size of the table."""


class LazyAdamW(torch.optim.AdamW):
    """AdamW for dense gradients, lazy Adam for sparse ones.

    Rows without a gradient keep their value and moments; the moments of a row decay only in steps
    in which it has a gradient, as in torch's SparseAdam. Sparse parameters get no weight decay.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; ``closure`` as in torch."""
        sparse = [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        gradients = [parameter.grad.coalesce() for parameter, _ in sparse]
        for parameter, _ in sparse:
            parameter.grad = None
        result = super().step(closure)
        for (parameter, group), gradient in zip(sparse, gradients, strict=True):
            self._step_rows(parameter, gradient, group)
            parameter.grad = gradient
        return result

    def _step_rows(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(table)
            state["exp_avg_sq"] = torch.zeros_like(table)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        rows, values = gradient.indices()[0], gradient.values()
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        deviation = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        table.index_add_(0, rows, mean / deviation, alpha=-group["lr"] / (1 - beta1**step))
