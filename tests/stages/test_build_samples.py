"""Stage build-samples end to end, on a log with and one without events that are not positive."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from pyspark.sql import DataFrame

from qarm.errors import InputError
from qarm.ledger import Ledger, StageResult
from qarm.pipeline.context import Context
from qarm.stages import build_samples
from tests.lakes.ranking import START_SECOND, context_on, publish_log


@dataclass(frozen=True)
class Built:
    """A stage that has run: its context, result, table and rows."""

    context: Context
    result: StageResult
    table: DataFrame
    rows: list

    @property
    def ledger(self) -> Ledger:
        return self.result.ledgers[0]


def run(spark, root, log, time_order_only=False, **section) -> Built:
    section = {"history_length": 5, **section}
    sections = {"samples": section, "loader": {"shards": 2}}
    context = context_on(spark, root, "build-samples", **sections)
    publish_log(context, log, time_order_only=time_order_only)
    result = build_samples.run(context)
    result.ledgers[0].close("build-samples")
    table = context.lake.read(context.outputs["ranking_samples"])
    return Built(context, result, table, table.collect())


@pytest.fixture(scope="module")
def observed(spark, tmp_path_factory, log) -> Built:
    return run(spark, tmp_path_factory.mktemp("observed"), log)


@pytest.fixture(scope="module")
def sampled(spark, tmp_path_factory, log) -> Built:
    root = tmp_path_factory.mktemp("sampled")
    return run(spark, root, log, negatives="sampled", negatives_per_positive=2)


def test_observed_negatives(log, observed):
    rows = {(r["user_idx"], r["item_idx"], r["ts"]): r for r in observed.rows}
    assert len(rows) == len(log) == observed.ledger.rows_out
    assert observed.result.facts["mode"] == "observed"
    train_events = [e for e in log if e.part == "train"]
    share = sum(e.positive for e in train_events) / len(train_events)
    for e in log:
        row = rows[e.user, e.item, START_SECOND + e.second]
        earlier = [x for x in log if x.second < e.second]
        of_item = [x for x in earlier if x.item == e.item]
        rate = (sum(x.positive for x in of_item) + 10 * share) / (len(of_item) + 10)
        assert row["part"] == e.part
        assert (row["label_positive"], row["label_top"]) == (e.positive, e.rating == 5)
        assert row["negative_kind"] == ("none" if e.positive else "observed")
        assert row["is_repeat"] == any(x.positive and x.user == e.user for x in of_item)
        assert row["item_rate"] == pytest.approx(rate, abs=1e-6)
        assert row["item_train_events"] == sum(x.item == e.item for x in train_events)
        assert row["weight"] == 1
    parts = observed.result.facts["parts"]
    assert parts["test"]["rows"] == sum(e.part == "test" for e in log)
    assert parts["train"]["top"] == sum(e.part == "train" and e.rating == 5 for e in log)


def test_sampled_negatives(log, sampled):
    """Also from a log with events that are not positive: those are counted, and left out."""
    first = min(e.second for e in log)
    positives = [e for e in log if e.positive and e.second > first]
    kinds = Counter(r["negative_kind"] for r in sampled.rows)
    assert sampled.ledger.dropped == {
        "nothing_seen_before": sum(e.second == first for e in log),
        "not_positive": sum(not e.positive and e.second > first for e in log),
    }
    assert kinds["none"] == len(positives)
    assert sampled.ledger.added == {"sampled_negatives": kinds["sampled"]}
    assert kinds["sampled"] > 1.5 * kinds["none"]
    facts = sampled.result.facts
    assert facts["negatives_not_found"] == 2 * kinds["none"] - kinds["sampled"]
    assert facts["positive_share"] == pytest.approx(1 / 3)
    drawn = [r for r in sampled.rows if r["negative_kind"] == "sampled"]
    assert not any(r["label_positive"] or r["label_top"] for r in drawn)
    assert any(r["is_repeat"] for r in drawn)  # bought before, and still a negative
    # A negative shares user, time, part and history with its positive.
    shared = ("part", "user_count", "history_item_idx", "history_ts")
    moments: dict[tuple, set] = {}
    for row in sampled.rows:
        seen = moments.setdefault((row["user_idx"], row["ts"]), set())
        seen.add(str([row[name] for name in shared]))
    assert all(len(seen) == 1 for seen in moments.values())


def test_equal_files_of_one_part_each(spark, sampled):
    files = sampled.context.live_files("ranking_samples")
    by_part = {p: [f for f in files if f"/part={p}/" in f] for p in ("train", "valid", "test")}
    assert sum(map(len, by_part.values())) == len(files)
    assert len(by_part["train"]) == 2
    sizes = [spark.read.parquet(f).count() for f in by_part["train"]]
    assert sum(sizes) == sum(r["part"] == "train" for r in sampled.rows)
    assert max(sizes) < 1.5 * min(sizes)


def test_same_log_in_another_order_gives_the_same_samples(spark, tmp_path, log, sampled):
    again = run(spark, tmp_path, log[::-1], negatives="sampled", negatives_per_positive=2)
    assert sorted(map(str, again.rows)) == sorted(map(str, sampled.rows))


def test_no_training_events(spark, tmp_path, log):
    with pytest.raises(InputError, match="none of them is positive"):
        run(spark, tmp_path, [e for e in log if e.part == "test"])
