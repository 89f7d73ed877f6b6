from __future__ import annotations

import numpy as np

from qarm.alignment.known_pairs import KnownPairs


def test_partners_of_both_directions_like_a_set() -> None:
    generator = np.random.default_rng(3)
    triggers, targets = generator.integers(0, 40, (2, 300))
    known = KnownPairs([(triggers[:100], targets[:100]), (triggers[100:], targets[100:])], 40)
    pairs = {(a, b) for a, b in zip(triggers.tolist(), targets.tolist(), strict=True)}
    pairs |= {(b, a) for a, b in pairs}
    items, candidates = generator.integers(0, 40, 25), generator.integers(0, 40, 60)
    expected = [[(a, b) in pairs for b in candidates.tolist()] for a in items.tolist()]
    np.testing.assert_array_equal(known.among(items, candidates), expected)


def test_no_pairs_and_no_candidates() -> None:
    known = KnownPairs([], 5)
    assert not known.among(np.array([0, 4]), np.array([1, 2])).any()
    assert known.among(np.array([0, 4]), np.zeros(0, np.int64)).shape == (2, 0)
