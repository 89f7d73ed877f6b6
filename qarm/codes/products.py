"""Products of float32 tiles by the faster of the two kernels that torch has.

MKL, which ``torch.mm`` calls, keeps to AVX2 on AMD processors; oneDNN, which torch calls where its
compiler fuses linear layers, uses AVX-512 there: 1.7 to 2 times as many products a second on one
such core (EPYC 9005: 100 and 170 to 200 GFLOP/s), for tiles large enough to be worth its overhead.
Their sums differ in the last bit, which is none of a caller's concern who decides near ties anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from qarm.codes.nearest import Floats

if TYPE_CHECKING:
    from torch import Tensor

_LARGE = 64 * 256
"""Fewest numbers of a product that oneDNN's overhead of some microseconds is worth."""


def multiply(left: Tensor, right: Tensor, room: Tensor) -> Floats:
    """``left @ right.T``: (k, r) of (k, d) and (r, d); ``room``: at least k r numbers for it."""
    import torch

    k, r = len(left), len(right)
    if k * r >= _LARGE and (linear := _onednn()) is not None:
        return linear(left, right).numpy()
    return torch.mm(left, right.T, out=room[: k * r].view(k, r)).numpy()


@cache
def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    import torch

    if not torch.backends.mkldnn.is_available():
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None:
        return None
    return lambda left, right: operator(left, right, None, "none", [], "")
