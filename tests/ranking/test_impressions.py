"""Which events become samples."""

from __future__ import annotations

import pytest

from qarm.errors import InputError, RowsLostError
from qarm.ranking import impressions
from tests.lakes.ranking import tables


def test_observed_negatives_that_are_not_there(spark, log):
    positive = [e for e in log if e.positive]
    events = impressions.prepare_events(*tables(spark, positive), ["positive"])
    assert impressions.choose_mode("auto", events) == "sampled"
    with pytest.raises(InputError, match=r"every event of the log is positive"):
        impressions.choose_mode("observed", events)


def test_share_of_positives_in_training(spark):
    rows = [("mine", True), ("train", False), ("train", False), ("test", True)]
    events = spark.createDataFrame(rows, "part string, positive boolean")
    parts = ["mine", "train"]
    assert impressions.training_share(events, parts, "observed", 4) == pytest.approx(1 / 3)
    assert impressions.training_share(events, parts, "sampled", 4) == pytest.approx(1 / 5)
    with pytest.raises(InputError, match="has 2 events and none of them is positive"):
        impressions.training_share(events, ["train"], "sampled", 4)


def test_counts_by_part_and_kind(spark):
    rows = [
        (1, "train", "none", 1.0, 1.0),
        (2, "train", "none", 1.0, 0.0),
        (3, "train", "sampled", 0.0, 0.0),
        (4, "test", "none", 1.0, 1.0),
    ]
    ddl = "sample_id bigint, part string, negative_kind string, label_a float, label_b float"
    counts = impressions.count_samples(spark.createDataFrame(rows, ddl), ["a", "b"])
    assert counts.parts == {
        "train": {"rows": 3, "a": 2, "b": 1},
        "test": {"rows": 1, "a": 1, "b": 1},
    }
    assert counts.negative_kinds == {"none": 3, "sampled": 1}
    assert counts.rows == 4
    twice = spark.createDataFrame([*rows, rows[0]], ddl)
    with pytest.raises(RowsLostError, match="5 samples have 4 distinct sample_id"):
        impressions.count_samples(twice, ["a", "b"])
