"""What a kind of last residual level is: how it is fitted, assigned, stored, and what it needs.

``kinds`` registers the kinds. ``fsq_fit`` is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from qarm.kernels.nearest import ROWS, Floats, Ints
from qarm.kernels.residuals import square_rows, subtract
from qarm.kernels.threads import over_rows


class LevelCoder(Protocol):
    """Assigns the codes of a fitted last level."""

    kind: ClassVar[str]
    """Name of its ``LevelKind``."""

    def encode(self, rest: Floats) -> Ints:
        """(n,) codes of what the levels before have left of the vectors (n, d)."""

    def rows(self) -> Floats:
        """(m, d) what table codebooks and the codebook's file hold of it."""

    def parts(self) -> list[Floats]:
        """The arrays that the codebook's hash covers."""

    def check(self, levels: Sequence[Floats]) -> None:
        """Raise an InputError unless the last of ``levels`` has a row for each of its codes."""


@dataclass(frozen=True, eq=False)
class LevelFit:
    """A fitted last level."""

    coder: Any
    """The ``LevelCoder``."""
    table: Floats
    """(K, d) what each code stands for."""
    codes: Ints
    """(n,) codes of the fitted rows."""
    error: float
    """Mean squared length of what is left."""


class FitLevel(Protocol):
    """Signature of ``LevelKind.fit``."""

    def __call__(
        self,
        rest: Floats,
        prefix: NDArray[np.integer[Any]],
        codes: int,
        *,
        seed: int = 0,
        keep: Any = None,
    ) -> LevelFit:
        """Fit on what the k-means levels have left (n, d), and their codes (n, L - 1).

        Args:
            rest: (n, d).
            prefix: (n, L - 1).
            codes: number of codes of the level.
            seed: of all that is random.
            keep: a coder of the parent codebook, so that codes keep their meaning; then only the
                table is fitted.
        """


@dataclass(frozen=True)
class LevelKind:
    """A kind of last residual level. It depends on the k-means levels before it."""

    name: str
    """Value of setting codes.rq_last and of column kind in table codebooks."""
    check_sizes: Callable[[Sequence[int]], None]
    """Raises a ConfigError if codes.rq_levels do not suit it."""
    fit: FitLevel
    from_rows: Callable[[NDArray[np.floating[Any]], int], LevelCoder]
    """The coder from its ``rows`` and the number of codes; raises an InputError."""
    array: str
    """Name of the rows in a codebook's safetensors file."""


def rest_after(x: Floats, codes: Ints, levels: Sequence[Floats]) -> Floats:
    """What ``levels`` leave of vectors (n, d) with codes (n, L), to the bit as ``encode`` does."""
    rest = x.astype(np.float32, copy=True)
    for number, level in enumerate(levels):
        subtract(rest, level, codes[:, number])
    return rest


def encode_last(
    x: NDArray[np.floating[Any]],
    codes: Ints,
    levels: Sequence[Floats],
    coder: LevelCoder,
    *,
    threads: int = 1,
) -> tuple[Ints, Floats]:
    """Add the last level's code to those of the levels before.

    Args:
        x: (n, d) vectors.
        codes: (n, L - 1) codes of the levels before.
        levels: all L levels, the last one what each code of the coder stands for.
        coder: of the last level.
        threads: the result does not depend on it.

    Returns:
        (n, L) codes; (n,) squared length of what is left after the last level.
    """
    matrix = np.ascontiguousarray(x, np.float32)
    n, before = codes.shape
    longer = np.empty((n, before + 1), np.int32)
    left = np.empty(n, np.float32)

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, ROWS):
            rows = slice(first, min(first + ROWS, stop))
            rest = rest_after(matrix[rows], codes[rows], levels[:before])
            last = coder.encode(rest)
            subtract(rest, levels[before], last)
            longer[rows, :before] = codes[rows]
            longer[rows, before] = last
            square_rows(rest, left[rows])

    over_rows(work, n, threads, ROWS)
    return longer, left
