"""New-pair Recall@k as figures: by vector space, source of pairs, and warm or cold items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qarm.evaluation.estimates import Estimate, ratio_of_sums
from qarm.evaluation.new_pairs import TestPairs
from qarm.evaluation.retrieval import Ranks
from qarm.evaluation.vectors import ALIGNED, CHANCE, RAW
from qarm.ledger import Metric


def recall_metrics(
    source: str,
    pairs: TestPairs,
    ranks: Mapping[str, Ranks],
    candidates: int,
    cutoffs: Sequence[int],
    groups: int,
) -> list[Metric]:
    """Rows of the metrics table: ``recall@k`` by space and slice, ``recall_ratio@k`` aligned/raw.

    Micro average over distinct pairs. ``raw`` is the best raw space of that slice, ``chance`` is k
    over the candidates. Intervals by the jackknife over hash groups of triggers.

    Args:
        source: u2i or swing; slices are named ``<source> all``, ``<source> warm``, ``... cold``.
        pairs: the test pairs.
        ranks: space -> ranks of the pairs' targets.
        candidates: items among which a target is looked for (without the trigger).
        cutoffs: values of k.
        groups: hash groups of triggers.
    """
    metrics: list[Metric] = []
    kinds = {"all": np.ones(len(pairs), bool), "warm": pairs.warm, "cold": ~pairs.warm}
    for kind, inside in kinds.items():
        n = int(inside.sum())
        if not n:
            continue
        for k in cutoffs:
            found = {
                name: _estimate(r.hits(k)[inside], pairs.group[inside], groups)
                for name, r in ranks.items()
            }
            if raw := {name: e for name, e in found.items() if name.startswith("raw:")}:
                found[RAW] = max(raw.values(), key=lambda e: e.value)

            where = f"{source} {kind}"
            metrics += [_metric(f"recall@{k}", name, where, e, n) for name, e in found.items()]
            chance = Estimate(min(1.0, k / candidates) if candidates else 0.0, np.zeros(0))
            metrics.append(_metric(f"recall@{k}", CHANCE, where, chance, n))
            if RAW in found and math.isfinite((ratio := found[ALIGNED].over(found[RAW])).value):
                name = f"{ALIGNED}/{RAW}"
                metrics.append(_metric(f"recall_ratio@{k}", name, where, ratio, n, math.inf))
    return metrics


def _metric(
    metric: str, variant: str, where: str, e: Estimate, n: int, most: float = 1.0
) -> Metric:
    """One row; the interval of a few pairs can lie outside of [0, most] and is cut there."""
    low, high = e.interval() or (None, None)
    return Metric(
        metric=metric,
        value=e.value,
        n=n,
        part="test",
        slice=where,
        variant=variant,
        low=None if low is None else max(low, 0.0),
        high=None if high is None else min(high, most),
    )


def _estimate(hits: NDArray[np.float64], group: NDArray[np.int64], groups: int) -> Estimate:
    return ratio_of_sums(
        np.bincount(group, hits, groups).astype(float),
        np.bincount(group, minlength=groups).astype(float),
    )
