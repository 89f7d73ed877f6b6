"""Counts and rates against plain Python, equal timestamps among them."""

from __future__ import annotations

import pytest

from qarm.ranking import impressions, rates
from tests.lakes.ranking import START_SECOND, tables

KEYS = {"item": ["item_idx"], "user": ["user_idx"], "pair": ["user_idx", "item_idx"]}


@pytest.fixture(scope="module")
def events(spark, log):
    frame = impressions.prepare_events(*tables(spark, log), ["positive"]).cache()
    yield frame
    frame.unpersist()


def test_counts_before_are_those_of_strictly_earlier_events(log, events):
    rows = rates.counts_before(events, events.select("user_idx", "item_idx", "ts"), KEYS).collect()
    assert len(rows) == len(log)
    for row in rows:
        earlier = [e for e in log if START_SECOND + e.second < row["ts"] / 1e6]
        user, item = row["user_idx"], row["item_idx"]
        of_item = [e for e in earlier if e.item == item]
        of_user = [e for e in earlier if e.user == user]
        of_pair = [e for e in of_user if e.item == item]
        for name, mine in (("item", of_item), ("user", of_user), ("pair", of_pair)):
            assert row[f"{name}_events"] == len(mine)
            assert row[f"{name}_positives"] == sum(e.positive for e in mine)


def test_totals_before_run_over_days(log, events):
    rows = rates.totals_before(events).collect()
    assert len(rows) == len({e.second for e in log})
    assert len({row["second"] // 86_400 for row in rows}) == 2
    for row in rows:
        earlier = [e for e in log if START_SECOND + e.second < row["second"]]
        assert row["positives_before"] == sum(e.positive for e in earlier)
        assert row["items_before"] == len({e.item for e in earlier})


def test_rates_of_observed_and_of_drawn_negatives(spark):
    row = spark.createDataFrame(
        [(10, 6, 8, 4, 100, 50)],
        "user_events int, user_positives int, item_events int, item_positives int, "
        "positives_before int, items_before int",
    )
    seen = rates.with_rates(row, share=0.5, prior=2.0, negatives_per_positive=None).first()
    assert seen["user_rate"] == pytest.approx((6 + 1) / (10 + 2))
    assert seen["item_rate"] == pytest.approx((4 + 1) / (8 + 2))
    assert (seen["user_count"], seen["item_count"]) == (10, 8)
    drawn = rates.with_rates(row, share=0.2, prior=2.0, negatives_per_positive=4).first()
    # An average item had 100/50 = 2 positives, so 4 x 2 negatives are expected of any item.
    assert drawn["item_rate"] == pytest.approx((4 + 0.4) / (4 + 8 + 2))
    assert drawn["user_rate"] == pytest.approx(0.2)  # nothing to learn from
