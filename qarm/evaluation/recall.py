"""New-pair Recall@k by vector space, source of pairs, and warm or cold items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qarm.evaluation.estimates import GROUPS, Estimate, grouped_mean
from qarm.evaluation.held_out_pairs import TestPairs
from qarm.evaluation.retrieval import Ranks
from qarm.evaluation.vectors import ALIGNED, CHANCE, RAW
from qarm.ledger import Metric


def recall_metrics(
    source: str,
    pairs: TestPairs,
    ranks: Mapping[str, Ranks],
    candidates: int,
    cutoffs: Sequence[int],
) -> list[Metric]:
    """``recall@k`` by space and slice, and ``recall_ratio@k`` of aligned over raw.

    Micro average over distinct pairs. ``raw`` is the best raw space of the slice, ``chance`` is k
    divided by the number of candidates. Intervals by the jackknife over hash groups of triggers.

    Args:
        source: u2i or swing; slices are named ``<source> all``, ``<source> warm``, ``... cold``.
        pairs: the test pairs.
        ranks: space -> ranks of the pairs' targets.
        candidates: number of items that are ranked (without the trigger).
        cutoffs: values of k.
    """
    metrics: list[Metric] = []
    kinds = {"all": np.ones(len(pairs), bool), "warm": pairs.warm, "cold": ~pairs.warm}
    for kind, inside in kinds.items():
        n = int(inside.sum())
        if not n:
            continue
        for k in cutoffs:
            recalls = {
                name: grouped_mean(r.hits(k)[inside], pairs.group[inside], GROUPS)
                for name, r in ranks.items()
            }
            if raw := [e for name, e in recalls.items() if name.startswith("raw:")]:
                recalls[RAW] = max(raw, key=lambda e: e.value)
            where = f"{source} {kind}"
            metrics += [_metric(f"recall@{k}", name, where, e, n) for name, e in recalls.items()]
            chance = Estimate(min(1.0, k / candidates) if candidates else 0.0, np.zeros(0))
            metrics.append(_metric(f"recall@{k}", CHANCE, where, chance, n))
            ratio = recalls[ALIGNED].over(recalls[RAW]) if raw else None
            if ratio is not None and math.isfinite(ratio.value):
                name = f"{ALIGNED}/{RAW}"
                metrics.append(_metric(f"recall_ratio@{k}", name, where, ratio, n, math.inf))
    return metrics


def _metric(
    metric: str, variant: str, where: str, e: Estimate, n: int, most: float = 1.0
) -> Metric:
    low, high = e.clipped_interval(most)
    return Metric(
        metric=metric,
        value=e.value,
        n=n,
        part="test",
        slice=where,
        variant=variant,
        low=low,
        high=high,
    )
