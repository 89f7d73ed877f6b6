"""One run of a miner, as plain Python."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from qarm.pairs.mined import Mined

from .reference import Pair


def collect(mined: Mined) -> tuple[dict[tuple[int, int], Pair], dict[str, int]]:
    """Pairs and tally of a miner, from one job."""
    rows = mined.rows.withColumn("last_ts", F.unix_seconds("last_ts")).collect()
    pairs = [row for row in rows if row["counts"] is None]
    found = {
        (r["trigger"], r["target"]): Pair(r["score"], r["support"], r["weight"], r["last_ts"])
        for r in pairs
    }
    assert len(found) == len(pairs)
    counts = [row["counts"] for row in rows if row["counts"] is not None]
    sums = [sum(column) for column in zip(*counts, strict=True)]
    return found, dict(zip(mined.names, sums or [0] * len(mined.names), strict=True))


def same(found: dict[tuple[int, int], Pair], expected: dict[tuple[int, int], Pair]) -> None:
    """The same pairs, with the same numbers."""
    assert set(found) == set(expected)
    for key, pair in expected.items():
        assert found[key].score == pytest.approx(pair.score, rel=1e-9, abs=1e-12), key
        assert found[key].weight == pytest.approx(pair.weight), key
        assert (found[key].support, found[key].last) == (pair.support, pair.last), key


def same_top(
    found: dict[tuple[int, int], Pair], pairs: dict[tuple[int, int], Pair], k: int
) -> None:
    """The ``k`` best ``pairs`` of each trigger, with the same numbers.

    Scores that are equal on paper can differ in their last bits by the order of a sum, so at the
    k-th place either may stand; nothing better by more than that may be left out.
    """
    same(found, {key: pairs[key] for key in found})
    for trigger in {i for i, _ in pairs}:
        scores = {key: pair.score for key, pair in pairs.items() if key[0] == trigger}
        kept = [score for key, score in scores.items() if key in found]
        left_out = [score for key, score in scores.items() if key not in found]
        assert len(kept) == min(k, len(scores)), trigger
        assert not left_out or min(kept) >= max(left_out) * (1 - 1e-9), trigger
