"""How good codes are, on arrays. ``code_use`` and its neighbours compute the same figures by Spark.

``duplicate_rate`` = 1 - distinct codes / items; ``shared_rate`` = share of items whose code another
item has. Both are printed, since the literature mixes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qarm.codes.residual import reconstruct
from qarm.kernels.nearest import Floats


@dataclass(frozen=True)
class Usage:
    """How a level's codes are used."""

    size: int
    """Codes of the level."""
    used: int
    """Codes that at least one item has."""
    entropy: float
    """Entropy of the code's distribution over its maximum, log size: 1 is even use."""
    perplexity: float
    """exp(entropy): the number of evenly used codes with the same entropy."""
    gini: float
    """Gini coefficient of the items of each code: 0 even, towards 1 all in one."""

    @property
    def dead(self) -> int:
        """Codes that no item has."""
        return self.size - self.used

    @property
    def utilisation(self) -> float:
        """Share of codes in use."""
        return self.used / self.size


def usage(counts: NDArray[np.integer]) -> Usage:
    """Use of a level from the number of items of each of its codes (zeros included)."""
    size, total = len(counts), int(counts.sum())
    if total == 0:
        return Usage(size, 0, 0.0, 0.0, 0.0)
    share = counts[counts > 0] / total
    nats = float(-(share * np.log(share)).sum())
    ascending = np.sort(counts).astype(np.float64)
    ranks = np.arange(1, size + 1)
    gini = float(((2 * ranks - size - 1) * ascending).sum() / (size * total))
    return Usage(
        size=size,
        used=len(share),
        entropy=nats / float(np.log(size)) if size > 1 else 1.0,
        perplexity=float(np.exp(nats)),
        gini=gini,
    )


@dataclass(frozen=True)
class Collisions:
    """How many items share a code."""

    items: int
    codes: int
    """Distinct codes."""
    shared_items: int
    """Items whose code another item has."""
    largest: int
    """Most items of one code."""

    @property
    def duplicate_rate(self) -> float:
        """1 - distinct codes / items."""
        return 1 - self.codes / self.items if self.items else 0.0

    @property
    def shared_rate(self) -> float:
        """Share of items whose code another item has."""
        return self.shared_items / self.items if self.items else 0.0

    @property
    def items_per_code(self) -> float:
        """Items a distinct code."""
        return self.items / self.codes if self.codes else 0.0


def collisions(codes: NDArray[np.integer]) -> Collisions:
    """Of codes (n, L)."""
    _, counts = np.unique(codes, axis=0, return_counts=True)
    return Collisions(
        items=len(codes),
        codes=len(counts),
        shared_items=int(counts[counts > 1].sum()),
        largest=int(counts.max(initial=0)),
    )


@dataclass(frozen=True)
class Reconstruction:
    """Sums over items, so that parts of the catalogue can be added up."""

    items: int
    error: NDArray[np.float64]
    """(L,) sum of ||x - sum of centroids||^2 after each level."""
    relative: NDArray[np.float64]
    """(L,) sum of that over ||x||^2; zero vectors count 0."""
    cosine: NDArray[np.float64]
    """(L,) sum of the cosine of x and the sum of centroids; zero vectors count 0."""


def reconstruction(
    x: Floats, codes: NDArray[np.integer], levels: Sequence[Floats]
) -> Reconstruction:
    """Of vectors (n, d) and their codes (n, L)."""
    wide = x.astype(np.float64)
    squares = (wide**2).sum(axis=1)
    error, relative, cosine = [], [], []
    for estimate in reconstruct(codes, levels):
        rest = ((wide - estimate) ** 2).sum(axis=1)
        norms = np.sqrt(squares * (estimate.astype(np.float64) ** 2).sum(axis=1))
        products = (wide * estimate).sum(axis=1)
        error.append(rest.sum())
        relative.append(np.divide(rest, squares, out=np.zeros_like(rest), where=squares > 0).sum())
        cosine.append(np.divide(products, norms, out=np.zeros_like(rest), where=norms > 0).sum())
    return Reconstruction(len(x), np.array(error), np.array(relative), np.array(cosine))


def group_cosines(
    x: Floats, starts: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Size and sum of unit vectors of each group of consecutive rows.

    The mean cosine of the pairs of a group of m unit vectors with sum s is
    (||s||^2 - m) / (m (m - 1)): linear in the catalogue, exact, no pairs are formed.

    Args:
        x: (n, d), rows of a group side by side.
        starts: (g,) first row of each group, ascending, the first 0.

    Returns:
        (g,) sizes; (g, d) sums.
    """
    norms = np.sqrt((x.astype(np.float64) ** 2).sum(axis=1))
    unit = np.divide(x, norms[:, None], out=np.zeros(x.shape), where=norms[:, None] > 0)
    sizes = np.diff(np.append(starts, len(x)))
    return sizes.astype(np.int64), np.add.reduceat(unit, starts, axis=0)


def mean_pair_cosine(sizes: NDArray[np.int64], sums: NDArray[np.float64]) -> tuple[float, int, int]:
    """Sum over groups of two or more items of (items x mean cosine of the group's pairs).

    Returns:
        That sum, the items behind it, and the groups: sum / items is each item's mean cosine to
        the others of its group, averaged over items.
    """
    several = sizes > 1
    m = sizes[several].astype(np.float64)
    squares = (sums[several] ** 2).sum(axis=1)
    return float(((squares - m) / (m - 1)).sum()), int(m.sum()), int(several.sum())


def prefix_cosine(x: Floats, codes: NDArray[np.integer]) -> list[float]:
    """Mean cosine inside a shared prefix of length 1, 2, ..., L; NaN where nobody shares one."""
    found = []
    for length in range(1, codes.shape[1] + 1):
        order = np.lexsort(codes[:, :length].T[::-1])
        sorted_codes = codes[order, :length]
        new = np.any(sorted_codes[1:] != sorted_codes[:-1], axis=1)
        starts = np.flatnonzero(np.append(True, new))
        total, items, _ = mean_pair_cosine(*group_cosines(x[order], starts))
        found.append(total / items if items else float("nan"))
    return found


def pairs_by_chance(
    codes: NDArray[np.integer], trigger: NDArray[np.integer], target: NDArray[np.integer]
) -> NDArray[np.float64]:
    """(L,) share of pairs that share a prefix when triggers and targets are matched at random.

    An item counts as often as it is in a pair; matches of an item with itself are left out.

    Args:
        codes: (n, L) codes.
        trigger: (pairs,) rows of ``codes``.
        target: (pairs,) likewise.
    """

    def match(group: NDArray[np.integer]) -> float:
        a, b = (np.bincount(group[side], minlength=len(codes)) for side in (trigger, target))
        return float((a.astype(float) * b).sum()) / len(trigger) / len(target)

    itself = match(np.arange(len(codes)))
    found = np.full(codes.shape[1], np.nan)
    for length in range(1, codes.shape[1] + 1):
        _, group = np.unique(codes[:, :length], axis=0, return_inverse=True)
        if itself < 1:
            found[length - 1] = (match(group.ravel()) - itself) / (1 - itself)
    return found


@dataclass(frozen=True)
class PartitionSums:
    """Two partitions of the same items: sums over groups n_i, n_j and their cells n_ij."""

    items: int
    cell_squares: float
    """Sum of n_ij^2."""
    old_squares: float
    """Sum of n_i^2."""
    new_squares: float
    """Sum of n_j^2."""
    cell_logs: float
    """Sum of n_ij ln n_ij."""
    old_logs: float
    new_logs: float

    @property
    def adjusted_rand(self) -> float:
        """Adjusted Rand index (Hubert and Arabie, 1985): 1 equal, 0 expected by chance."""
        total = self.items * (self.items - 1) / 2
        cells, old, new = (
            (squares - self.items) / 2
            for squares in (self.cell_squares, self.old_squares, self.new_squares)
        )
        expected = old * new / total if total else 0.0
        most = (old + new) / 2
        return (cells - expected) / (most - expected) if most != expected else 1.0

    @property
    def mutual_information(self) -> float:
        """Mutual information over the mean of both entropies; 1 where both are one group."""
        if self.items == 0:
            return 1.0
        log = float(np.log(self.items))
        cells, old, new = (
            log - logs / self.items for logs in (self.cell_logs, self.old_logs, self.new_logs)
        )
        return 2 * (old + new - cells) / (old + new) if old + new > 1e-12 else 1.0
