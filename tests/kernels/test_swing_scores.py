"""Swing's kernel against its definition, a pair of users at a time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from qarm.kernels.swing_scores import BELOW_MIN_SUPPORT, BEYOND_TOP_K, SCORED, score_swing

ITEMS, USERS, ALPHA2 = 9, 30, 1.5


class Lists:
    """Users' lists of distinct items in random order, some entries not sampled."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.users = [rng.permutation(ITEMS)[: rng.integers(0, 7)].tolist() for _ in range(USERS)]
        self.indptr = np.append(0, np.cumsum([len(items) for items in self.users]))
        self.code = np.array([i for items in self.users for i in items], np.int32)
        entries = len(self.code)
        self.sampled = rng.random(entries) < 0.8
        self.ts = rng.integers(0, 1000, entries)
        self.weight = rng.integers(1, 5, entries).astype(float)
        self.user_weight = rng.random(USERS) + 0.5

    def sampled_entries(self, item: int) -> dict[int, int]:
        """User -> entry, for the sampled users of an item."""
        return {
            user: entry
            for user in range(len(self.users))
            for entry in range(self.indptr[user], self.indptr[user + 1])
            if self.code[entry] == item and self.sampled[entry]
        }

    def call(self, triggers, *, min_support=2, top_k=100, first=0, capacity=1000, tally=None):
        of = [self.sampled_entries(item) for item in triggers]
        return score_swing(
            np.array(triggers, np.int64),
            np.append(0, np.cumsum([len(users) for users in of])),
            np.array([entry for users in of for entry in users.values()], np.int64),
            np.array([user for users in of for user in users], np.int64),
            self.indptr,
            self.code,
            self.sampled,
            self.ts,
            self.weight,
            self.user_weight,
            ALPHA2,
            min_support,
            top_k,
            first,
            capacity,
            np.zeros(3, np.int64) if tally is None else tally,
        )

    def by_hand(self, i: int, j: int) -> tuple[float, int, float, int] | None:
        """Score, support, weight and latest time of a pair; None with fewer than two users."""
        mine, theirs = self.sampled_entries(i), self.sampled_entries(j)
        both = sorted(mine.keys() & theirs.keys())
        if len(both) < 2:
            return None
        score = sum(
            self.user_weight[u]
            * self.user_weight[v]
            / (ALPHA2 + len({*self.users[u]} & {*self.users[v]}))
            for u, v in combinations(both, 2)
        )
        entries = [of[u] for of in (mine, theirs) for u in both]
        return score, len(both), self.weight[entries].sum(), self.ts[entries].max()


@pytest.mark.parametrize("seed", range(5))
def test_scores_follow_the_definition(seed: int) -> None:
    lists = Lists(seed)
    tally = np.zeros(3, np.int64)
    done, *columns = lists.call(range(ITEMS), tally=tally)
    assert done == ITEMS
    rows = {(i, j): rest for i, j, *rest in zip(*(c.tolist() for c in columns), strict=True)}
    pairs = [(i, j) for i in range(ITEMS) for j in range(ITEMS) if i != j]
    expected = {pair: row for pair in pairs if (row := lists.by_hand(*pair))}
    assert rows.keys() == expected.keys()
    for pair, row in expected.items():
        assert rows[pair] == pytest.approx(row, rel=1e-12)
        assert rows[pair][0] == rows[pair[::-1]][0], "equal to the last bit in both directions"
    assert tally.tolist() == [len(expected), 0, 0]


def test_min_support_and_top_k_are_tallied() -> None:
    lists = Lists(0)
    _, triggers, targets, scores, supports, *_ = lists.call(range(ITEMS))
    tally = np.zeros(3, np.int64)
    _, *kept = lists.call(range(ITEMS), min_support=3, top_k=2, tally=tally)
    enough = supports >= 3
    best = []
    for trigger in range(ITEMS):
        own = np.flatnonzero(enough & (triggers == trigger))
        best += sorted(own, key=lambda row: (-scores[row], targets[row]))[:2]
    assert kept[1].tolist() == targets[best].tolist()
    assert kept[2].tolist() == scores[best].tolist()
    assert tally[SCORED] == len(scores)
    assert tally[BELOW_MIN_SUPPORT] == (~enough).sum() > 0
    assert tally[BEYOND_TOP_K] == enough.sum() - len(best) > 0


def test_the_smaller_item_wins_a_tie() -> None:
    lists = Lists(0)
    lists.users = [[4, 2, 7, 0]] * 3
    lists.indptr = np.arange(4) * 4
    lists.code = np.array([4, 2, 7, 0] * 3, np.int32)
    lists.sampled = np.ones(12, bool)
    lists.ts, lists.weight, lists.user_weight = np.arange(12), np.ones(12), np.ones(3)
    _, _, targets, scores, *_ = lists.call([4], top_k=2)
    assert targets.tolist() == [0, 2]
    assert scores.tolist() == pytest.approx([3 / (ALPHA2 + 4)] * 2)


def test_calls_of_limited_capacity_add_up() -> None:
    lists = Lists(1)
    whole_tally, tally = np.zeros(3, np.int64), np.zeros(3, np.int64)
    _, *whole = lists.call(range(ITEMS), tally=whole_tally)
    first, parts = 0, []
    while first < ITEMS:
        after, *rows = lists.call(range(ITEMS), first=first, capacity=ITEMS, tally=tally)
        assert first < after
        assert len(rows[0]) <= ITEMS
        parts.append(rows)
        first = after
    assert len(parts) > 1
    for column, expected in enumerate(whole):
        assert np.concatenate([rows[column] for rows in parts]).tolist() == expected.tolist()
    assert tally.tolist() == whole_tally.tolist()
