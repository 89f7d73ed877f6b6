"""New-pair recall from literal ranks."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.evaluation.held_out_pairs import TestPairs
from qarm.evaluation.recall import recall_metrics
from qarm.evaluation.retrieval import Ranks

PAIRS = TestPairs(
    trigger=np.arange(6),
    target=np.arange(6) + 1,
    warm=np.array([True, True, True, True, False, False]),
    group=np.arange(6),
)


def _ranks(*above: int) -> Ranks:
    return Ranks(np.ones(6, bool), np.array(above), np.zeros(6, int))


def test_recall_by_space_and_slice() -> None:
    ranks = {
        "aligned": _ranks(0, 1, 1, 9, 0, 9),
        "raw:text": _ranks(0, 9, 9, 9, 0, 0),
        "raw:image": _ranks(0, 0, 9, 9, 9, 9),
    }
    metrics = {
        (m.metric, m.variant, m.slice): m for m in recall_metrics("u2i", PAIRS, ranks, 40, [2])
    }
    assert {s for _, _, s in metrics} == {"u2i all", "u2i warm", "u2i cold"}
    assert metrics["recall@2", "aligned", "u2i warm"].value == 3 / 4
    # The best raw space of each slice.
    assert metrics["recall@2", "raw", "u2i warm"].value == 2 / 4
    assert metrics["recall@2", "raw", "u2i cold"].value == 1
    assert metrics["recall@2", "chance", "u2i all"].value == 2 / 40
    assert metrics["recall@2", "chance", "u2i all"].low is None
    ratio = metrics["recall_ratio@2", "aligned/raw", "u2i warm"]
    assert (ratio.value, ratio.n) == (pytest.approx(1.5), 4)
    for m in metrics.values():
        if m.low is not None and m.metric == "recall@2":
            assert 0 <= m.low <= m.value <= m.high <= 1


def test_without_raw_vectors_or_pairs() -> None:
    metrics = recall_metrics("u2i", PAIRS, {"aligned": _ranks(*[0] * 6)}, 0, [1, 5])
    assert {m.variant for m in metrics} == {"aligned", "chance"}
    nothing = TestPairs(*[np.zeros(0, int)] * 2, np.zeros(0, bool), np.zeros(0, int))
    assert recall_metrics("u2i", nothing, {}, 10, [1]) == []
