"""Whether the items of held-out pairs share a prefix of their codes.

The pairs are those of ``held_out_pairs``: no figure here uses data that the vectors were made from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.codes.codebook import lists_to_matrix
from qarm.evaluation.estimates import GROUPS, grouped_mean
from qarm.ledger import Metric

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.evaluation.held_out_pairs import TestPairs


def pair_agreement(source: str, pairs: TestPairs, ids: DataFrame) -> list[Metric]:
    """Share of test pairs whose items share c1, (c1, c2), ..., and its chance level.

    Chance level: the same triggers and targets, matched at random (an item counts as often as it
    occurs in a pair, and is never matched with itself). Intervals by the jackknife over hash groups
    of triggers. Only the codes of items in test pairs are collected.

    Args:
        source: u2i or swing; slices are named ``<source> all``, ``<source> warm``, ``... cold``.
        pairs: the test pairs.
        ids: with item_idx and rq.
    """
    if not len(pairs):
        return []
    wanted = np.unique(np.concatenate([pairs.trigger, pairs.target]))
    asked = ids.sparkSession.createDataFrame(pa.table({"item_idx": wanted}))
    known = asked.join(ids.select("item_idx", "rq"), "item_idx").toArrow().sort_by("item_idx")
    items = known["item_idx"].to_numpy()
    codes = lists_to_matrix(known["rq"], "semantic_ids")
    coded = np.isin(pairs.trigger, items) & np.isin(pairs.target, items)
    kinds = {"all": coded, "warm": coded & pairs.warm, "cold": coded & ~pairs.warm}
    metrics: list[Metric] = []
    for kind, inside in kinds.items():
        n = int(inside.sum())
        if n == 0 or (kind != "all" and n == coded.sum()):
            continue
        trigger = np.searchsorted(items, pairs.trigger[inside])
        target = np.searchsorted(items, pairs.target[inside])
        shared = np.logical_and.accumulate(codes[trigger] == codes[target], axis=1)
        by_chance = pairs_by_chance(codes, trigger, target)
        for level, chance in enumerate(by_chance.tolist()):
            estimate = grouped_mean(shared[:, level], pairs.group[inside], GROUPS)
            low, high = estimate.clipped_interval()
            agreement = Metric(
                metric=f"rq_pair_agreement_l{level + 1}",
                value=estimate.value,
                n=n,
                part="test",
                slice=f"{source} {kind}",
                variant="rq",
                low=low,
                high=high,
            )
            metrics.append(agreement)
            if np.isfinite(chance):
                name = f"rq_pair_agreement_chance_l{level + 1}"
                metrics.append(replace(agreement, metric=name, value=chance, low=None, high=None))
    return metrics


def pairs_by_chance(
    codes: NDArray[np.integer[Any]],
    trigger: NDArray[np.integer[Any]],
    target: NDArray[np.integer[Any]],
) -> NDArray[np.float64]:
    """(L,) share of pairs that share a prefix if triggers and targets are matched at random.

    An item counts as often as it occurs in a pair; matches of an item with itself do not count. NaN
    if there is no other match.

    Args:
        codes: (n, L) codes.
        trigger: (pairs,) rows of ``codes``.
        target: (pairs,) likewise.
    """

    def match(group: NDArray[np.integer[Any]]) -> float:
        a, b = (np.bincount(group[side], minlength=len(codes)) for side in (trigger, target))
        return float((a.astype(float) * b).sum()) / len(trigger) / len(target)

    itself = match(np.arange(len(codes)))
    shares = np.full(codes.shape[1], np.nan)
    for length in range(1, codes.shape[1] + 1):
        _, group = np.unique(codes[:, :length], axis=0, return_inverse=True)
        if itself < 1:
            shares[length - 1] = (match(group.ravel()) - itself) / (1 - itself)
    return shares
