"""The approximate index of anchors: recall, order, and that equal builds are equal."""

from __future__ import annotations

import numpy as np

from qarm.codes.anchor_index import build_index, recall
from qarm.codes.anchors import nearest_k, prepare_anchors


def clustered(n, d=12, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((30, d))
    return (centres[rng.integers(30, size=n)] + 0.4 * rng.standard_normal((n, d))).astype("f")


def test_recall_grows_with_probes_to_exactness() -> None:
    pool, x = prepare_anchors(clustered(3001)), clustered(203, seed=2)
    cells = build_index(pool, probes=1).cells
    assert cells == int(4 * 3001**0.5)
    found = [recall(build_index(pool, probes=probes), x, 10) for probes in (2, 20, cells)]
    assert 0.1 < found[0] < found[1] < 1
    assert found[1] > 0.8
    assert found[2] == 1
    every = build_index(pool, probes=cells).search(x, 10)
    np.testing.assert_array_equal(every, nearest_k(x, pool, 10))


def test_equal_builds_and_rows_whose_cells_hold_too_few() -> None:
    pool, x = prepare_anchors(clustered(501)), clustered(50, seed=3)
    first, second = (build_index(pool, probes=2).search(x, 5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    # Two cells hold about ten anchors: these rows are searched exactly.
    np.testing.assert_array_equal(
        build_index(pool, probes=2).search(x, 100), nearest_k(x, pool, 100)
    )


def test_equal_anchors_in_order_of_their_ids() -> None:
    pool = prepare_anchors(np.repeat(clustered(40), 6, axis=0))
    index = build_index(pool, probes=10_000)
    x = clustered(20, seed=4)
    np.testing.assert_array_equal(index.search(x, 9), nearest_k(x, pool, 9))
