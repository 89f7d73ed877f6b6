"""Logs with an order within each user alone: nothing compares positions of different users."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qarm.ranking import impressions, order_only
from tests.lakes.ranking import START_SECOND, tables
from tests.stages.test_build_samples import Built, run


@pytest.fixture(scope="module")
def sampled(spark, tmp_path_factory, positions) -> Built:
    """The stage's samples of that log, two drawn negatives per positive."""
    return run_sampled(spark, tmp_path_factory.mktemp("sampled"), positions)


def run_sampled(spark, root, log) -> Built:
    return run(spark, root, log, True, negatives="sampled", negatives_per_positive=2)


def shifted(log, user: int, seconds: int):
    """The same log, where one user's positions start later."""
    return [replace(e, second=e.second + seconds) if e.user == user else e for e in log]


def folds(spark, log) -> dict[int, int]:
    users = spark.createDataFrame([(u,) for u in {e.user for e in log}], "user_idx bigint")
    return {r[0]: r[1] for r in users.select("user_idx", order_only.fold()).collect()}


def test_items_are_numbered_by_part_then_by_index(spark, positions):
    events = impressions.prepare_events(*tables(spark, positions), ["positive"])
    places = {}
    for e in positions:
        place = order_only.PART_ORDER[e.part]
        places[e.item] = min(places.get(e.item, place), place)
    expected = sorted(places, key=lambda item: (places[item], item))
    rows = order_only.numbered_items(events).collect()
    assert {r["item_idx"]: r["item_number"] for r in rows} == {
        item: number for number, item in enumerate(expected)
    }


def test_items_of_many_chunks_are_numbered_without_gaps(spark):
    wide = spark.range(0, 1_000_000, 9_973).selectExpr("id AS item_idx", "'train' AS part")
    numbers = order_only.numbered_items(wide).orderBy("item_idx").collect()
    assert [r["item_number"] for r in numbers] == list(range(len(numbers)))
    assert numbers[-1]["item_idx"] > 10 * 65_536


@pytest.mark.parametrize("negatives", ["observed", "sampled"])
def test_item_rates_are_out_of_fold(spark, tmp_path, positions, sampled, negatives):
    built = sampled
    if negatives == "observed":
        built = run(spark, tmp_path, positions, True, negatives=negatives)
    fold = folds(spark, positions)
    assert len(set(fold.values())) > 3
    train = [e for e in positions if e.part == "train"]
    share = 1 / 3 if negatives == "sampled" else sum(e.positive for e in train) / len(train)
    kinds = set()
    for row in built.rows:
        others = [e for e in train if fold[e.user] != fold[row["user_idx"]]]
        of_item = [e for e in others if e.item == row["item_idx"]]
        hits = sum(e.positive for e in of_item)
        impressions = len(of_item)
        if negatives == "sampled":
            upto = order_only.PART_ORDER[row["part"]]
            pool = {e.item for e in positions if order_only.PART_ORDER[e.part] <= upto}
            assert row["item_idx"] in pool
            impressions = hits + 2 * sum(e.positive for e in others) / len(pool)
        assert row["item_count"] == len(of_item)
        expected = (hits + 10 * share) / (impressions + 10)
        assert row["item_rate"] == pytest.approx(expected, abs=1e-6)
        own = [e for e in positions if e.user == row["user_idx"]]
        assert row["user_count"] == sum(START_SECOND + e.second < row["ts"] for e in own)
        kinds.add(row["negative_kind"])
    assert len(kinds) == 2
    assert built.ledger.dropped.get("nothing_seen_before") is None


def test_positions_of_one_user_do_not_matter_to_another(spark, tmp_path, positions, sampled):
    moved = positions[0].user
    later = run_sampled(spark, tmp_path, shifted(positions, moved, 90_000))

    def of_others(built: Built) -> list[str]:
        return sorted(str(r) for r in built.rows if r["user_idx"] != moved)

    assert of_others(sampled) == of_others(later)
