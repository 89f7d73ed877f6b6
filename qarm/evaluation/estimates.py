"""Figures with 95 % intervals: area under the ROC curve, ratios, jackknife. Arrays in and out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Hash groups of users (or of triggers of test pairs) of the jackknife.
GROUPS = 20


def auc_from_histogram(positives: Floats, negatives: Floats) -> float:
    """Area under the ROC curve, ties counted half (the Mann-Whitney statistic).

    Args:
        positives: (buckets,) positives per bucket, buckets in ascending order of the score.
        negatives: (buckets,) negatives per bucket.

    Returns:
        The share of (positive, negative) couples in the right order; NaN without both labels.
    """
    couples = float(positives.sum()) * float(negatives.sum())
    if couples == 0:
        return math.nan
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum()) / couples


@dataclass(frozen=True)
class Estimate:
    """A figure, on all rows and without each group of users."""

    value: float
    """The figure on all rows."""
    without: Floats
    """(groups,) the figure without that group; NaN for a group that has no rows."""

    def interval(self) -> tuple[float, float] | None:
        """95 % interval by ``jackknife``; None if there is none."""
        return jackknife(self.value, self.without)

    def clipped_interval(self, most: float = 1.0) -> tuple[float | None, float | None]:
        """The interval cut to [0, most]: that of a few rows may exceed it. (None, None): none."""
        interval = self.interval()
        if interval is None:
            return None, None
        return max(interval[0], 0.0), min(interval[1], most)

    def minus(self, other: Estimate) -> Estimate:
        """The paired difference: each group is removed from both figures at once."""
        return Estimate(self.value - other.value, self.without - other.without)

    def over(self, other: Estimate) -> Estimate:
        """The paired ratio; NaN if ``other`` is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(other.without == 0, math.nan, self.without / other.without)
        return Estimate(self.value / other.value if other.value else math.nan, ratios)


def jackknife(value: float, without: Floats) -> tuple[float, float] | None:
    """95 % interval of ``value`` by the delete-a-group jackknife (Kott, 2001).

    variance = (G - 1) / G * sum over groups of (figure without the group - their mean)^2, and
    Student's t with G - 1 degrees of freedom. Groups consist of whole users, so that the interval
    accounts for the dependence between the rows of a user.

    Args:
        value: the figure on all rows.
        without: (groups,) the figure without each group; NaN entries (empty groups) do not count
            in G.

    Returns:
        (low, high); None with fewer than two groups, if removing a group never changes the figure
        (such as without any hit, where the variance would be 0), or if ``value`` is NaN.
    """
    kept = without[np.isfinite(without)]
    groups = len(kept)
    if groups < 2 or not math.isfinite(value) or np.ptp(kept) == 0:
        return None
    variance = (groups - 1) / groups * float(((kept - kept.mean()) ** 2).sum())
    half = student_t(groups - 1) * math.sqrt(variance)
    return value - half, value + half


def student_t(freedom: int) -> float:
    """The .975 quantile of Student's t (Cornish-Fisher series; Abramowitz and Stegun 26.7.5).

    Exact for 1 and 2 degrees of freedom, within .004 for 3, within .0005 from 5 on.
    """
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z = NormalDist().inv_cdf(0.975)
    n = float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def ratio_of_sums(numerators: Floats, denominators: Floats) -> Estimate:
    """Estimate of sum(numerators) / sum(denominators) from (groups,) sums.

    Groups whose denominator is 0 have no rows.
    """
    top, bottom = float(numerators.sum()), float(denominators.sum())
    rest = bottom - denominators
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.where((denominators > 0) & (rest > 0), (top - numerators) / rest, math.nan)
    return Estimate(top / bottom if bottom else math.nan, without)


def grouped_mean(values: NDArray[np.generic], group: NDArray[np.int64], groups: int) -> Estimate:
    """Estimate of the mean of ``values`` (rows,) with the jackknife group of each row."""
    return ratio_of_sums(
        np.bincount(group, values, groups).astype(float),
        np.bincount(group, minlength=groups).astype(float),
    )


@dataclass(frozen=True)
class RangeWins:
    """Ordered (positive, negative) couples inside one range of scores.

    A couple in the right order is a win, a tie half a win. Ranges are few and in ascending order
    of the score; couples across ranges follow from the label counts alone.
    """

    positives: Floats
    """(groups,)"""
    negatives: Floats
    """(groups,)"""
    of_positives: Floats
    """(groups,) wins of the group's positives over the negatives of all groups."""
    over_negatives: Floats
    """(groups,) wins of the positives of all groups over the group's negatives."""
    own: Floats
    """(groups,) wins of the group's positives over the group's negatives."""


def wins_in_range(
    bucket: NDArray[np.int64], group: NDArray[np.int64], pos: Floats, neg: Floats, groups: int
) -> RangeWins:
    """Count the wins inside one range from its sparse histogram.

    Args:
        bucket: (cells,) score bucket of each cell; a (bucket, group) may have several cells.
        group: (cells,) group of users, below ``groups``.
        pos: (cells,) positives.
        neg: (cells,) negatives.
        groups: number of groups.
    """
    _, row = np.unique(bucket, return_inverse=True)
    rows = int(row.max()) + 1 if len(row) else 0

    def per_group(values: Floats) -> Floats:
        return np.bincount(group, values, groups).astype(float)

    def below(counts: Floats) -> Floats:
        """(rows,) counts in lower buckets plus half of the bucket's own."""
        return np.cumsum(counts) - counts / 2

    def histogram(cells: NDArray[np.bool_] | slice, counts: Floats) -> Floats:
        return np.bincount(row[cells], counts[cells], rows).astype(float)

    positives, negatives = histogram(slice(None), pos), histogram(slice(None), neg)
    above = positives.sum() - below(positives)
    own = np.zeros(groups)
    for g in np.unique(group):
        mine = group == g
        own[g] = (histogram(mine, pos) * below(histogram(mine, neg))).sum()
    return RangeWins(
        positives=per_group(pos),
        negatives=per_group(neg),
        of_positives=per_group(pos * below(negatives)[row]),
        over_negatives=per_group(neg * above[row]),
        own=own,
    )


def auc_estimate(ranges: Sequence[RangeWins]) -> Estimate:
    """AUC on all groups and without each, from ranges in ascending order of the score.

    Without group g, the wins are all wins, minus those of its positives, minus those over its
    negatives, plus those counted twice.
    """
    pos = np.stack([r.positives for r in ranges])
    neg = np.stack([r.negatives for r in ranges])
    lower = np.cumsum(neg, axis=0) - neg  # (ranges, groups) negatives in lower ranges
    higher = pos.sum(axis=0) - np.cumsum(pos, axis=0)  # positives in higher ranges
    of_positives = sum(r.of_positives for r in ranges) + (pos * lower.sum(1)[:, None]).sum(0)
    over_negatives = sum(r.over_negatives for r in ranges) + (neg * higher.sum(1)[:, None]).sum(0)
    own = sum(r.own for r in ranges) + (pos * lower).sum(0)
    p, n = pos.sum(0), neg.sum(0)
    wins, couples = float(of_positives.sum()), float(p.sum() * n.sum())
    rest = (p.sum() - p) * (n.sum() - n)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = (wins - of_positives - over_negatives + own) / rest
    without = np.where((p + n > 0) & (rest > 0), left, math.nan)
    return Estimate(wins / couples if couples else math.nan, without)


def user_auc(
    user: NDArray[np.int64], score: Floats, label: Floats
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """AUC of each user who has both labels, ties counted half.

    Args:
        user: (rows,) any key of the user; rows sorted by (user, score).
        score: (rows,)
        label: (rows,) 0 or 1.

    Returns:
        (users,) index of the user's first row, (users,) AUC, (users,) rows.
    """
    if not len(user):
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    new_user = np.r_[True, user[1:] != user[:-1]]
    new_tie = new_user | np.r_[True, score[1:] != score[:-1]]
    first = np.flatnonzero(new_user)
    tie_first = np.flatnonzero(new_tie)
    tie_pos = np.add.reduceat(label, tie_first)
    tie_neg = np.add.reduceat(1 - label, tie_first)
    tie_user = np.cumsum(new_user)[tie_first] - 1
    rows = np.diff(np.r_[first, len(user)]).astype(float)
    pos = np.bincount(tie_user, tie_pos, len(first))
    neg = rows - pos
    before = np.r_[0.0, np.cumsum(neg)[:-1]]  # negatives of earlier users
    below = np.cumsum(tie_neg) - tie_neg - before[tie_user]
    wins = np.bincount(tie_user, tie_pos * (below + tie_neg / 2), len(first))
    both = (pos > 0) & (neg > 0)
    return first[both], wins[both] / (pos * neg)[both], rows[both]
