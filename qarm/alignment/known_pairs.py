"""Items that are partners in a training pair: in-batch candidates that are not negatives."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class KnownPairs:
    """Partners of every item in compressed rows: 8 bytes per item, 4 per direction of a pair.

    Args:
        pairs: chunks of (triggers, targets), item rows, (m,) each.
        items: number of items.
    """

    def __init__(
        self, pairs: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]], items: int
    ) -> None:
        keys = [np.zeros(0, np.int64)]
        for triggers, targets in pairs:
            keys.append(
                np.unique(
                    np.concatenate([_key(triggers, targets, items), _key(targets, triggers, items)])
                )
            )
        unique = np.unique(np.concatenate(keys))
        counts = np.bincount(unique // max(items, 1), minlength=items)
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self.partners = (unique % max(items, 1)).astype(np.int32)

    def among(self, items: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each candidate is a partner of each item, (len(items), len(candidates)).

        The partners of each item are looked up among the distinct candidates by binary search,
        which takes far fewer steps than comparing all pairs.
        """
        distinct, inverse = np.unique(candidates, return_inverse=True)
        is_partner = np.zeros((len(items), len(distinct)), dtype=bool)
        if not len(distinct):
            return is_partner[:, inverse]
        starts, counts = self.offsets[items], self.offsets[items + 1] - self.offsets[items]
        owners = np.repeat(np.arange(len(items)), counts)
        places = np.arange(len(owners)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        partners = self.partners[places]
        at = np.minimum(np.searchsorted(distinct, partners), len(distinct) - 1)
        hit = distinct[at] == partners
        is_partner[owners[hit], at[hit]] = True
        return is_partner[:, inverse]


def _key(first: NDArray[np.int64], second: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    return first * items + second
