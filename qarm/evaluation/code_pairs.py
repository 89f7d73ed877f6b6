"""Do items that behaviour of the test period puts together share their code's prefix?

The pairs are those of new-pair recall (``evaluation.new_pairs``): mined from the test part, without
any pair that mining or training knew. So no figure here is on data that made the vectors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.codes.codebook import lists_to_matrix
from qarm.evaluation.code_arrays import pairs_by_chance
from qarm.evaluation.estimates import ratio_of_sums
from qarm.ledger import Metric

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.evaluation.new_pairs import TestPairs


def pair_agreement(source: str, pairs: TestPairs, ids: DataFrame, groups: int) -> list[Metric]:
    """Share of test pairs whose items share c1, (c1, c2), ..., and what chance would give.

    Chance: the same triggers and targets, matched at random (a popular item counts as often as it
    is in a pair, an item is never matched with itself). Intervals by the jackknife over hash groups
    of triggers. The pairs are bounded (``evaluation.max_pairs``); codes of their items alone come
    to the driver.

    Args:
        source: u2i or swing; slices are named ``<source> all``, ``<source> warm``, ``... cold``.
        pairs: the test pairs.
        ids: with item_idx and rq.
        groups: hash groups of triggers.
    """
    if not len(pairs):
        return []
    wanted = np.unique(np.concatenate([pairs.trigger, pairs.target]))
    asked = ids.sparkSession.createDataFrame(pa.table({"item_idx": wanted}))
    known = asked.join(ids.select("item_idx", "rq"), "item_idx").toArrow().sort_by("item_idx")
    items = known["item_idx"].to_numpy()
    codes = lists_to_matrix(known["rq"], "semantic_ids")
    both = np.isin(pairs.trigger, items) & np.isin(pairs.target, items)
    found: list[Metric] = []
    for kind, inside in (("all", both), ("warm", both & pairs.warm), ("cold", both & ~pairs.warm)):
        n = int(inside.sum())
        if n == 0 or (kind != "all" and n == both.sum()):
            continue
        trigger = np.searchsorted(items, pairs.trigger[inside])
        target = np.searchsorted(items, pairs.target[inside])
        share = np.logical_and.accumulate(codes[trigger] == codes[target], axis=1)
        chance = pairs_by_chance(codes, trigger, target)
        where = f"{source} {kind}"
        for level in range(codes.shape[1]):
            found += _level(
                level + 1, share[:, level], float(chance[level]), pairs.group[inside], where, groups
            )
    return found


def _level(
    length: int,
    share: NDArray[np.bool_],
    chance: float,
    group: NDArray[np.int64],
    where: str,
    groups: int,
) -> list[Metric]:
    estimate = ratio_of_sums(
        np.bincount(group, share, groups).astype(float),
        np.bincount(group, minlength=groups).astype(float),
    )
    low, high = estimate.interval() or (None, None)
    found = [
        Metric(
            metric=f"rq_pair_agreement_l{length}",
            value=estimate.value,
            n=len(share),
            part="test",
            slice=where,
            variant="rq",
            low=None if low is None else max(low, 0.0),
            high=None if high is None else min(high, 1.0),
        )
    ]
    if math.isfinite(chance):
        found.append(
            Metric(
                metric=f"rq_pair_agreement_chance_l{length}",
                value=chance,
                n=len(share),
                part="test",
                slice=where,
                variant="rq",
            )
        )
    return found
