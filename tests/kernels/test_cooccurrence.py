"""ItemCF's kernel against its definition, a pair of events at a time."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from qarm.kernels.cooccurrence import (
    BELOW_MIN_SUPPORT,
    BEYOND_TOP_K,
    FOREVER,
    SCORED,
    Lists,
    Rules,
    score_itemcf,
)

ITEMS, USERS, SCALE = 8, 25, 2.0**20
#: Powers of two, so that terms are exact and no order of addition matters.
RECENCY = np.array([1.0, 0.5, 0.25])


class Log:
    """Events of users: item, position, time and weight; items come again."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, 9, USERS)
        self.user = np.repeat(np.arange(USERS), lengths)
        # A gap in the positions is an event of another kind, which is no entry here.
        steps = rng.integers(1, 3, len(self.user))
        self.position = np.concatenate(
            [np.cumsum(steps[self.user == user]) for user in range(USERS)]
        ).astype(np.int32)
        self.item = rng.integers(0, ITEMS, len(self.user))
        self.ts = 100 * self.position.astype(np.int64) + rng.integers(0, 100, len(self.user))
        self.weight = rng.integers(1, 9, len(self.user)) / 4
        self.mass = np.bincount(self.item, self.weight, ITEMS)

    def lists(self) -> Lists:
        """The block of all items; the item with the most entries has place 0."""
        code = np.argsort(-np.bincount(self.item, minlength=ITEMS), kind="stable")
        place_of = np.argsort(code)
        entries = [np.flatnonzero(self.item == item) for item in range(ITEMS)]
        entry = np.concatenate(entries)
        return Lists(
            trigger=np.arange(ITEMS),
            trigger_indptr=np.append(0, np.cumsum([len(own) for own in entries])),
            trigger_entry=entry,
            trigger_user=self.user[entry],
            indptr=np.searchsorted(self.user, np.arange(USERS + 1)),
            place=place_of[self.item].astype(np.int32),
            position=self.position,
            ts=self.ts,
            weight=self.weight,
            code=code,
            place_of=place_of,
            inverse_root=1 / np.sqrt(np.maximum(self.mass[code], 1e-9)),
        )

    def by_hand(self, recency, micros) -> dict[tuple[int, int], tuple[float, int, float, int]]:
        """Pair -> score, support, c in units of 1 / scale, latest time."""
        total: dict = defaultdict(float)
        users: dict = defaultdict(set)
        latest: dict = {}
        for a in range(len(self.item)):
            for b in range(len(self.item)):
                gap = abs(int(self.position[a]) - int(self.position[b]))
                if self.user[a] != self.user[b] or self.item[a] == self.item[b]:
                    continue
                if abs(self.ts[a] - self.ts[b]) > micros or (len(recency) and gap > len(recency)):
                    continue
                pair = (int(self.item[a]), int(self.item[b]))
                factor = recency[gap - 1] if len(recency) else 1.0
                total[pair] += factor * self.weight[a] * self.weight[b]
                users[pair].add(self.user[a])
                latest[pair] = max(latest.get(pair, 0), self.ts[a], self.ts[b])
        return {
            (i, j): (
                c / math.sqrt(self.mass[i] * self.mass[j]),
                len(users[i, j]),
                c * SCALE,
                latest[i, j],
            )
            for (i, j), c in total.items()
        }


def score(log: Log, rules: Rules, *, first=0, capacity=1000, tally=None):
    tally = np.zeros(3, np.int64) if tally is None else tally
    return score_itemcf(log.lists(), rules, first, capacity, tally)


@pytest.mark.parametrize("micros", [FOREVER, 250])
@pytest.mark.parametrize("recency", [RECENCY, RECENCY[:0]], ids=["window", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_follow_the_definition(seed: int, recency: np.ndarray, micros: int) -> None:
    log = Log(seed)
    tally = np.zeros(3, np.int64)
    done, *columns = score(log, Rules(recency, micros, SCALE, 1, 100), tally=tally)
    assert done == ITEMS
    rows = {(i, j): rest for i, j, *rest in zip(*(c.tolist() for c in columns), strict=True)}
    expected = log.by_hand(recency, micros)
    assert rows.keys() == expected.keys()
    for pair, (cosine, support, units, latest) in expected.items():
        assert rows[pair][0] == pytest.approx(cosine, rel=1e-12)
        assert rows[pair][1:] == [support, units, latest]
        assert rows[pair][2] == rows[pair[::-1]][2]
    assert tally.tolist() == [len(expected), 0, 0]


def test_min_support_and_top_k_are_tallied() -> None:
    log = Log(0)
    pairs = log.by_hand(RECENCY, FOREVER)
    tally = np.zeros(3, np.int64)
    _, triggers, targets, *_ = score(log, Rules(RECENCY, FOREVER, SCALE, 2, 2), tally=tally)
    enough = {pair: row for pair, row in pairs.items() if row[1] >= 2}
    kept = 0
    for trigger in range(ITEMS):
        # Top k in no order; scores of this log differ.
        own = sorted((-row[0], j) for (i, j), row in enough.items() if i == trigger)
        assert set(targets[triggers == trigger].tolist()) == {j for _, j in own[:2]}
        kept += min(len(own), 2)
    assert tally[SCORED] == len(pairs)
    assert tally[BELOW_MIN_SUPPORT] == len(pairs) - len(enough) > 0
    assert tally[BEYOND_TOP_K] == len(enough) - kept > 0


def test_the_smaller_code_wins_a_tie() -> None:
    """More partners than the selection buffers (4 k), all with equal scores."""
    log = Log(0)
    log.user, log.item = np.zeros(ITEMS, int), np.array([5, 3, 7, 1, 0, 6, 4, 2])
    log.position, log.ts = np.arange(ITEMS, dtype=np.int32), np.arange(ITEMS)
    log.weight, log.mass = np.ones(ITEMS), np.ones(ITEMS)
    _, triggers, targets, scores, *_ = score(log, Rules(RECENCY[:0], FOREVER, SCALE, 1, 1))
    assert triggers.tolist() == list(range(ITEMS))
    assert targets.tolist() == [1, *[0] * (ITEMS - 1)]
    assert scores.tolist() == [1.0] * ITEMS


def test_calls_of_limited_capacity_add_up() -> None:
    log, rules = Log(1), Rules(RECENCY, FOREVER, SCALE, 1, 100)
    whole_tally, tally = np.zeros(3, np.int64), np.zeros(3, np.int64)
    _, *whole = score(log, rules, tally=whole_tally)
    first, parts = 0, []
    while first < ITEMS:
        after, *rows = score(log, rules, first=first, capacity=ITEMS, tally=tally)
        assert first < after
        parts.append(rows)
        first = after
    assert len(parts) > 1
    for column, expected in enumerate(whole):
        assert np.concatenate([rows[column] for rows in parts]).tolist() == expected.tolist()
    assert tally.tolist() == whole_tally.tolist()
