"""How evenly codes are used and how many items share one, from counts.

``duplicate_rate`` = 1 - distinct codes / items; ``shared_rate`` = share of items whose code another
item has. Both are reported, since the literature uses either under the name "collision rate".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def usage(counts: NDArray[np.integer[Any]]) -> Usage:
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


def collisions(codes: NDArray[np.integer[Any]]) -> Collisions:
    """Collisions of codes (n, L), one row per item."""
    _, counts = np.unique(codes, axis=0, return_counts=True)
    return Collisions(
        items=len(codes),
        codes=len(counts),
        shared_items=int(counts[counts > 1].sum()),
        largest=int(counts.max(initial=0)),
    )
