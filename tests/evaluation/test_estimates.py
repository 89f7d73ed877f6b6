"""AUC, its jackknife and the per-user AUC against brute force and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from qarm.evaluation.estimates import (
    Estimate,
    auc_estimate,
    auc_from_histogram,
    jackknife,
    ratio_of_sums,
    student_t,
    user_auc,
    wins_in_range,
)

GROUPS = 5


@pytest.fixture
def rows():
    """Scores in few buckets, so that there are ties; group 3 is empty."""
    rng = np.random.default_rng(0)
    bucket = rng.integers(0, 40, 400)
    label = (rng.random(400) < 0.2 + bucket / 100).astype(float)
    group = rng.choice([0, 1, 2, 4], 400)
    return bucket, label, group


def _wins(bucket, label, group):
    return wins_in_range(bucket, group, label, 1 - label, GROUPS)


def test_auc_from_histogram_equals_scikit_learn(rows) -> None:
    bucket, label, _ = rows
    ours = auc_from_histogram(np.bincount(bucket, label), np.bincount(bucket, 1 - label))
    assert ours == pytest.approx(roc_auc_score(label, bucket), abs=1e-12)


def test_auc_without_both_labels_is_nan() -> None:
    assert math.isnan(auc_from_histogram(np.array([1.0, 2.0]), np.array([0.0, 0.0])))


@pytest.mark.parametrize("cuts", [[], [20], [3, 7, 20, 39]])
def test_leave_a_group_out_equals_brute_force(rows, cuts) -> None:
    bucket, label, group = rows
    part = np.digitize(bucket, cuts)
    ranges = [
        _wins(*(column[part == p] for column in (bucket, label, group)))
        for p in range(len(cuts) + 1)
    ]
    estimate = auc_estimate(ranges)
    assert estimate.value == pytest.approx(roc_auc_score(label, bucket), abs=1e-12)
    for g in range(GROUPS):
        rest = group != g
        if g == 3:
            assert math.isnan(estimate.without[g])
        else:
            expected = roc_auc_score(label[rest], bucket[rest])
            assert estimate.without[g] == pytest.approx(expected, abs=1e-12)


def test_user_auc_equals_scikit_learn_and_skips_one_label() -> None:
    rng = np.random.default_rng(1)
    user = np.sort(rng.integers(0, 30, 300))
    score = rng.integers(0, 6, 300) / 6
    label = (rng.random(300) < 0.4).astype(float)
    label[user == 4] = 1
    order = np.lexsort((score, user))
    user, score, label = user[order], score[order], label[order]
    first, auc, size = user_auc(user, score, label)
    expected = {
        u: roc_auc_score(label[user == u], score[user == u])
        for u in np.unique(user)
        if 0 < label[user == u].mean() < 1
    }
    assert 4 not in expected
    assert dict(zip(user[first], auc, strict=True)) == pytest.approx(expected, abs=1e-12)
    assert size.tolist() == [float((user == u).sum()) for u in expected]


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    """With one row a group, the jackknife of a mean is the textbook standard error."""
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
    estimate = ratio_of_sums(values, np.ones_like(values))
    low, high = estimate.interval()
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(student_t(7) * error)
    assert (low + high) / 2 == pytest.approx(values.mean())


def test_jackknife_needs_two_groups_and_skips_empty_ones() -> None:
    assert jackknife(0.5, np.array([0.4, math.nan])) is None
    assert jackknife(math.nan, np.array([0.4, 0.5])) is None
    assert jackknife(0.0, np.zeros(5)) is None  # no group makes a difference
    with_empty = jackknife(0.5, np.array([0.4, math.nan, 0.5]))
    assert with_empty == jackknife(0.5, np.array([0.4, 0.5]))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        sums = rng.normal(1.0, 1.0, 20)
        low, high = ratio_of_sums(sums, np.ones(20)).interval()
        hits += low <= 1.0 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_paired_difference_is_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(3)
    users = rng.normal(0.7, 0.1, 20)
    base = ratio_of_sums(users, np.ones(20))
    better = ratio_of_sums(users + 0.01 + rng.normal(0, 0.001, 20), np.ones(20))
    low, high = better.minus(base).interval()
    assert 0 < low < 0.01 < high
    wide = better.interval()
    assert high - low < (wide[1] - wide[0]) / 10


def test_ratio_with_nothing_below_is_nan() -> None:
    ratio = Estimate(0.5, np.array([0.4])).over(Estimate(0.0, np.array([0.0])))
    assert math.isnan(ratio.value)
    assert np.isnan(ratio.without).all()


@pytest.mark.parametrize(
    ("freedom", "table"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (19, 2.0930)]
)
def test_student_t_against_the_table(freedom: int, table: float) -> None:
    assert student_t(freedom) == pytest.approx(table, abs=2e-3)
