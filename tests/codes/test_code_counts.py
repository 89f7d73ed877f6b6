"""Use of codes and collisions, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.code_counts import collisions, usage


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
