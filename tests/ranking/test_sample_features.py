"""Features of samples as of their time, on a log of four events."""

from __future__ import annotations

import pytest

from qarm.config.samples import Samples
from qarm.ranking.sample_features import with_features

SECOND = 1_000_000
EVENTS = [  # user, item, ts, positive, part
    (0, 5, 1 * SECOND, True, "mine"),
    (1, 5, 2 * SECOND, False, "train"),
    (0, 5, 3 * SECOND, True, "valid"),
    (0, 6, 3 * SECOND, False, "valid"),
]


def test_features_come_from_earlier_events(spark):
    ddl = "user_idx bigint, item_idx bigint, ts bigint, positive boolean, part string"
    events = spark.createDataFrame(EVENTS, ddl)
    samples = events.where("part = 'valid'").selectExpr(
        "item_idx + 100 AS sample_id",
        *("user_idx", "item_idx", "ts", "part"),
        "7L AS positives_before",
        "7L AS items_before",
    )
    frame = with_features(
        samples,
        events,
        train_parts=["mine", "train"],
        share=0.5,
        mode="observed",
        has_times=True,
        config=Samples(history_length=2),
    )
    assert "positives_before" not in frame.columns
    rows = {row["sample_id"]: row.asDict() for row in frame.collect()}
    seen, new = rows[105], rows[106]
    assert (seen["is_repeat"], new["is_repeat"]) == (True, False)
    assert (seen["item_train_events"], new["item_train_events"]) == (2, 0)
    assert (seen["user_count"], seen["item_count"], new["item_count"]) == (1, 2, 0)
    assert seen["item_rate"] == pytest.approx((1 + 10 * 0.5) / (2 + 10))
    assert new["item_rate"] == pytest.approx(0.5)
    for row in (seen, new):
        assert (row["history_length"], row["history_item_idx"]) == (1, [-1, 5])
        assert row["history_ts"] == [0, 1]
