"""Finite scalar quantisation of the rest that the residual levels leave: Res-KmeansFSQ.

Published (QARM V2, arXiv 2602.08559): z = round(sigmoid(r W)), W in R^(d x b), 2^b codes. We write
z = round(sigmoid((r - o) W)) with an origin o, which is zero in the published form. How W is
trained is not published; ``fsq_fit`` is our method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qarm.errors import InputError
from qarm.kernels.nearest import Floats, Ints, as_matrix
from qarm.kernels.residuals import project_bits

MOST_BITS = 16


@dataclass(frozen=True, eq=False)
class Projection:
    """The last level's projection: bit i of a code is 1 where (r - origin) . weights[i] > 0.

    Raises:
        InputError: no rows, more than ``MOST_BITS``, an origin of another length, or NaN.
    """

    kind: ClassVar[str] = "fsq"
    weights: Floats
    """(b, d) the columns of W."""
    origin: Floats
    """(d,) where every bit is undecided."""

    def __post_init__(self) -> None:
        weights = as_matrix(np.asarray(self.weights), "codebook, fsq projection")
        origin = as_matrix(np.asarray(self.origin).reshape(1, -1), "codebook, fsq origin")[0]
        if not 1 <= len(weights) <= MOST_BITS or len(origin) != weights.shape[1]:
            raise InputError(
                f"codebook, fsq projection: expected (bits, dimensions) with 1 to {MOST_BITS} bits "
                f"and an origin of as many dimensions, got {weights.shape} and {origin.shape}"
            )
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "origin", origin)

    @property
    def bits(self) -> int:
        """b: there are 2^b codes."""
        return len(self.weights)

    def parts(self) -> list[Floats]:
        """The columns of W and the origin: what the codebook's hash covers."""
        return [self.weights, self.origin]

    def rows(self) -> Floats:
        """(b + 1, d): the columns of W, then the origin."""
        return np.concatenate([self.weights, self.origin[None]])

    @classmethod
    def from_rows(cls, rows: NDArray[np.floating[Any]], codes: int) -> Projection:
        """Of b rows (the published form: the origin is zero) or b + 1, for 2^b codes.

        Raises:
            InputError: ``codes`` is no power of two, or not of that many rows.
        """
        bits = max(codes, 1).bit_length() - 1
        if codes != 1 << bits or np.ndim(rows) != 2 or len(rows) not in (bits, bits + 1):
            raise InputError(
                f"codebook, fsq projection: {codes} codes in the last rq level and rows of shape "
                f"{np.shape(rows)}; expected 2^b codes, and b rows (columns of W) or b + 1 (then "
                "the origin)"
            )
        matrix = np.asarray(rows, np.float32)
        origin = matrix[bits] if len(matrix) > bits else np.zeros(matrix.shape[1], np.float32)
        return cls(matrix[:bits], origin)

    def check(self, levels: Sequence[Floats]) -> None:
        """Check that the last of ``levels`` has a row for each code.

        Raises:
            InputError: it has not, or its dimensions differ, or there is none.
        """
        if not levels or levels[-1].shape != (1 << self.bits, len(self.origin)):
            raise InputError(
                f"codebook: a projection of {self.bits} bits and {len(self.origin)} dimensions "
                f"needs a last rq level of shape {(1 << self.bits, len(self.origin))} (what each "
                f"code stands for), seen levels {[level.shape for level in levels]}"
            )

    def encode(self, rest: Floats) -> Ints:
        """(n,) codes of what the levels before have left (n, d). Sums are float64."""
        codes = np.empty(len(rest), np.int32)
        project_bits(rest, self.weights, self.origin, codes)
        return codes
