"""The number of queries is bounded; the figures are checked in tests/stages/test_quality."""

from __future__ import annotations

import pytest

from qarm.evaluation.code_neighbours import neighbour_overlap
from qarm.evaluation.nearest_items import jaccard_by_chance

pytestmark = pytest.mark.spark


def test_queries_are_bounded_and_chance_is_of_the_whole_catalogue(many_items) -> None:
    frames = many_items
    rows = len(frames.x)
    figures = {
        m.metric: m for m in neighbour_overlap(frames.ids, frames.vectors, frames.book, rows, 50, 5)
    }
    assert figures["neighbour_overlap@5"].n == 50
    chance = figures["neighbour_overlap_chance@5"]
    assert (chance.value, chance.n) == (jaccard_by_chance(5, rows - 1), rows)
    assert figures.keys() == {"neighbour_overlap@5", "neighbour_overlap_chance@5"}


def test_one_item_has_no_neighbours(many_items) -> None:
    frames = many_items
    one = frames.ids.limit(1)
    assert neighbour_overlap(one, frames.vectors, frames.book, 1, 50, 5) == []
