"""Test pairs worked out by hand, see conftest."""

from __future__ import annotations

from qarm.evaluation.new_pairs import mine


def _as_dict(pairs) -> dict[tuple[int, int], bool]:
    couples = zip(pairs.trigger.tolist(), pairs.target.tolist(), strict=True)
    return dict(zip(couples, pairs.warm.tolist(), strict=True))


def test_pairs_of_the_test_period_that_training_does_not_know(tiny_lake) -> None:
    found = mine(tiny_lake())
    # 2 -> 3 is known the other way round; 0 -> 1 is known to ItemCF only, which trains nothing.
    assert _as_dict(found["u2i"]) == {(0, 1): False, (1, 3): True}
    assert found["u2i"].mined == 3
    assert found["u2i"].dropped == {"known_from_training": 1, "over_max_pairs": 0}
    # Users 1 and 4 share items 1 and 3 in the test part.
    assert _as_dict(found["swing"]) == {(1, 3): True, (3, 1): True}


def test_sources_that_train_the_encoder_count_as_known(tiny_lake) -> None:
    found = mine(tiny_lake(alignment={"sources": {"itemcf": 1.0}}))
    assert _as_dict(found["u2i"]) == {(1, 3): True}


def test_largest_number_of_pairs_is_kept_by_hash_and_counted(tiny_lake) -> None:
    context = tiny_lake(evaluation={"max_pairs": 1})
    first, again = mine(context)["u2i"], mine(context)["u2i"]
    assert len(first) == 1
    assert first.dropped == {"known_from_training": 1, "over_max_pairs": 1}
    assert _as_dict(first) == _as_dict(again)
