"""Matching a refit's clusters to the numbers of the codebook before: ours against scipy, dense.

    .venv/bin/python benchmarks/match_codes.py [--runs 3] [--size 8192] [--items 1000000]

One JSON line a case on stdout. Cases differ in the share of items that go elsewhere than most of
their old code: few after a warm start, most after a fit from nothing. ``equal``: both assignments
keep the same number of items. Progress names the memory that each takes beyond what is there.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment
from timing import interleaved, report, say

from qarm.codes.matching import best_pairs

#: Name -> share of items that go to one of the eight clusters beside the main one.
CASES = {"warm start": 0.1, "from nothing": 0.6}


def make_case(size: int, items: int, away: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and counts of the pairs (old code, new cluster)."""
    rng = np.random.default_rng(0)
    old = rng.integers(size, size=items)
    beside = np.where(rng.random(items) < away, rng.geometric(0.3, size=items).clip(max=8), 0)
    new = rng.permutation(size)[(old + beside) % size]
    pairs, counts = np.unique(old * size + new, return_counts=True)
    return pairs // size, pairs % size, counts.astype(np.float64)


def dense(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Row of each column, by scipy on the whole matrix."""
    matrix = np.zeros((size, size))
    matrix[rows, columns] = weights
    row_of = np.empty(size, np.int64)
    row, column = linear_sum_assignment(matrix, maximize=True)
    row_of[column] = row
    return row_of


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--items", type=int, default=1_000_000)
    arguments = parser.parse_args()
    for case, away in CASES.items():
        name = f"{case}: {arguments.size} codes, {arguments.items} items"
        rows, columns, weights = make_case(arguments.size, arguments.items, away)
        table = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), weights, strict=True))
        kept = []
        solvers: list[tuple[str, Callable[..., np.ndarray]]] = [
            ("ours", best_pairs),
            ("scipy", dense),
        ]
        for solver, function in solvers:
            tracemalloc.start()
            row_of = function(rows, columns, weights, arguments.size)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            kept.append(sum(table.get((int(r), c), 0) for c, r in enumerate(row_of) if r >= 0))
            say(f"{name}: {solver} keeps {kept[-1]:.0f} items, {peak / 1e6:.0f} MB")
        ours, peer = interleaved(
            name,
            lambda: best_pairs(rows, columns, weights, arguments.size),  # noqa: B023
            lambda: dense(rows, columns, weights, arguments.size),  # noqa: B023
            arguments.runs,
        )
        same = bool(kept[0] == kept[1])
        report("match_codes", name, "scipy linear_sum_assignment, dense", ours, peer, same)


if __name__ == "__main__":
    main()
