"""Aggregates of pairs and prefixes on literal frames."""

from __future__ import annotations

import pytest

from qarm.report import aggregates


def test_pairs_are_counted_by_source(spark) -> None:
    rows = [(0, i, "u2i", i / 10, 1 + i) for i in range(1, 9)] + [(1, 2, "swing", 3.0, 700)]
    pairs = spark.createDataFrame(
        rows, "trigger bigint, target bigint, source string, score double, support bigint"
    )
    swing, u2i = aggregates.pair_sources(pairs)
    assert (u2i.source, u2i.pairs, u2i.triggers, u2i.targets) == ("u2i", 8, 1, 8)
    assert sum(u2i.score_counts) == 8
    assert (u2i.score_edges[0], u2i.score_edges[-1]) == (0.1, pytest.approx(0.8))
    assert u2i.support_counts == [0, 2, 4, 2]  # 2-3, 4-7, 8-9
    assert sum(swing.score_counts) == 1  # all scores equal: still a bucket
    assert aggregates.pair_sources(pairs.limit(0)) == []


def test_prefixes_are_the_fullest_with_their_best_known_items(spark) -> None:
    codes = [[7, 1, i] for i in range(10)] + [[7, 2, 0], [7, 2, 1]] + [[i, 0, 0] for i in range(6)]
    ids = spark.createDataFrame(list(enumerate(codes)), "item_idx bigint, rq array<int>")
    items = spark.createDataFrame(
        [(i, str(i), f"title {i}" if i else None, "t" * 500) for i in range(len(codes))],
        "item_idx bigint, item_id string, title string, text string",
    )
    events = spark.createDataFrame([(9,), (9,), (0,)], "item_idx bigint")
    first, second, *rest = aggregates.prefixes(ids, items, events)
    assert (first.codes, first.items, len(first.titles)) == ((7, 1), 10, aggregates.TITLES)
    assert first.titles[:3] == ["title 9", "t" * aggregates.TITLE_LENGTH, "title 1"]
    assert (second.codes, second.titles) == ((7, 2), ["title 10", "title 11"])
    assert [p.codes for p in rest] == [(0, 0), (1, 0), (2, 0), (3, 0)]
