"""Figures of code quality on arrays, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.evaluation.code_arrays import collisions, prefix_cosine, reconstruction, usage


def test_even_use() -> None:
    figures = usage(np.full(8, 5))
    assert figures.entropy == pytest.approx(1)
    assert figures.perplexity == pytest.approx(8)
    assert figures.gini == pytest.approx(0)
    assert (figures.used, figures.dead, figures.utilisation) == (8, 0, 1.0)


def test_uneven_use() -> None:
    counts = np.array([0, 1, 3, 0])
    figures = usage(counts)
    nats = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert figures.entropy == pytest.approx(nats / np.log(4))
    assert figures.perplexity == pytest.approx(np.exp(nats))
    assert (figures.used, figures.dead, figures.utilisation) == (2, 2, 0.5)
    differences = np.abs(counts[:, None] - counts[None]).sum()
    assert figures.gini == pytest.approx(differences / (2 * 4 * 4))


def test_no_use_at_all() -> None:
    assert usage(np.zeros(3, int)).dead == 3


def test_two_collision_rates() -> None:
    figures = collisions(np.array([[0, 1], [0, 1], [0, 1], [2, 2], [0, 2]]))
    assert figures.duplicate_rate == pytest.approx(1 - 3 / 5)
    assert figures.shared_rate == pytest.approx(3 / 5)
    assert figures.items_per_code == pytest.approx(5 / 3)
    assert figures.largest == 3


def test_reconstruction() -> None:
    levels = [np.array([[1, 0], [0, 2]], np.float32), np.array([[0, 1], [0, 0]], np.float32)]
    x = np.array([[1, 1], [0, 3], [0, 0]], np.float32)
    codes = np.array([[0, 0], [1, 1], [0, 1]])
    figures = reconstruction(x, codes, levels)
    assert figures.error.tolist() == [1 + 1 + 1, 0 + 1 + 1]
    np.testing.assert_allclose(figures.relative, [1 / 2 + 1 / 9, 1 / 9])
    np.testing.assert_allclose(figures.cosine, [np.sqrt(0.5) + 1, 2])
    assert figures.items == 3


def test_cosine_inside_a_prefix_equals_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5)).astype(np.float32)
    codes = rng.integers(0, 3, (60, 2))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for length, value in enumerate(prefix_cosine(x, codes), start=1):
        same = (codes[:, None, :length] == codes[None, :, :length]).all(-1) & ~np.eye(
            60, dtype=bool
        )
        others = same.sum(1)
        each = (cosine * same).sum(1)[others > 0] / others[others > 0]
        assert value == pytest.approx(each.mean(), rel=1e-5)


def test_nobody_shares_a_prefix() -> None:
    assert np.isnan(prefix_cosine(np.eye(3, dtype=np.float32), np.array([[0], [1], [2]]))).all()
