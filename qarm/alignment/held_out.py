"""Recall@k on held-out pairs, which chooses the epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qarm.alignment.batches import encode_rows, read_pairs
from qarm.alignment.item_store import ItemStore
from qarm.encoders.fusion import ItemEncoder
from qarm.training import collectives

#: Cut-off of the metric.
RECALL_AT = 50
METRIC = f"recall@{RECALL_AT}"
_CHUNK = 512


class HeldOutPairs:
    """The held-out pairs, and the candidates that are ranked for each of them.

    Every rank encodes its share of the candidates and scores its share of the pairs. The numbers of
    both are limited, so that the cost of an evaluation does not grow with the catalogue.

    Args:
        uris: files of the held-out part.
        store: the items.
        max_pairs: maximum number of pairs, taken from the beginning of the (shuffled) files.
        max_candidates: maximum number of candidates, evenly spread over the items, besides the
            items of the pairs.
    """

    def __init__(
        self, uris: Sequence[str], store: ItemStore, max_pairs: int, max_candidates: int
    ) -> None:
        self.store = store
        triggers, targets, count = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for some_triggers, some_targets in read_pairs(uris, store):
            triggers.append(some_triggers[: max_pairs - count])
            targets.append(some_targets[: max_pairs - count])
            count += len(triggers[-1])
            if count == max_pairs:
                break
        self.triggers, self.targets = np.concatenate(triggers), np.concatenate(targets)
        spread = np.linspace(0, len(store) - 1, min(len(store), max_candidates)).astype(np.int64)
        self.candidates = np.unique(np.concatenate([spread, self.triggers, self.targets]))

    def __len__(self) -> int:
        return len(self.triggers)

    def recall(self, encoder: ItemEncoder) -> dict[str, float]:
        """Share of pairs whose target is among the k candidates nearest to the trigger.

        The trigger itself is excluded, and ties count as misses. All ranks must call this together,
        and get the same result.
        """
        vectors = self._candidate_vectors(encoder)
        own = slice(collectives.rank(), None, collectives.size())
        triggers = torch.from_numpy(np.searchsorted(self.candidates, self.triggers[own]))
        targets = torch.from_numpy(np.searchsorted(self.candidates, self.targets[own]))
        hits = torch.zeros(1, dtype=torch.int64)
        for start in range(0, len(triggers), _CHUNK):
            step = slice(start, start + _CHUNK)
            hits += _hits(vectors, triggers[step].to(vectors.device), targets[step])
        total = int(collectives.allreduce_sum(hits))
        return {METRIC: total / max(len(self), 1)}

    def _candidate_vectors(self, encoder: ItemEncoder) -> Tensor:
        """(candidates, d), gathered from the ranks' shares."""
        shares = np.array_split(self.candidates, collectives.size())
        was_training = encoder.training
        encoder.eval()
        vectors = collectives.gather(encode_rows(encoder, self.store, shares[collectives.rank()]))
        encoder.train(was_training)
        return vectors


def _hits(vectors: Tensor, triggers: Tensor, targets: Tensor) -> int:
    scores = vectors[triggers] @ vectors.T
    own = scores.gather(1, targets.to(scores.device)[:, None])
    scores.scatter_(1, triggers[:, None], float("-inf"))
    not_below = (scores >= own).sum(1) - 1  # the target itself
    return int((not_below < RECALL_AT).sum())
