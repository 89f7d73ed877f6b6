"""summary.json and the lines that a stage prints."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qarm.config import Config
from qarm.lake.tables import TableRef
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline import summary


@pytest.fixture
def config(tmp_path) -> Config:
    return Config(lake=str(tmp_path / "lake"))


def _entry() -> dict:
    context = SimpleNamespace(run_id="r", inputs={}, outputs={"items": TableRef("items", "/t", 3)})
    ledgers = [
        Ledger(name="lines", rows_in=1500, rows_out=1400, dropped={"null_user": 100, "bad": 0}),
        Ledger(name="items", rows_in=2, rows_out=3, added={"kept": 1}),
    ]
    metrics = [
        Metric(metric="auc", value=0.5, n=4, variant="base", part="valid"),
        Metric(metric="auc", value=0.625, n=4, variant="base", part="test"),
        Metric(metric="auc", value=0.7, n=4, variant="base", part="test", slice="head"),
    ]
    result = StageResult(ledgers=ledgers, metrics=metrics, facts={"n": 1})
    return summary.entry("ingest", context, result, 1.234, 2_000_000_000)  # type: ignore[arg-type]


def test_entries_replace_those_of_the_same_stage(config) -> None:
    assert summary.read(config)["stages"] == []
    summary.update(config, _entry())
    summary.update(config, {**_entry(), "seconds": 9.0})
    tree = summary.read(config)
    assert [(s["name"], s["seconds"], s["outputs"]) for s in tree["stages"]] == [
        ("ingest", 9.0, {"items": 3})
    ]
    assert len(tree["metrics"]) == 3
    assert all(metric["stage"] == "ingest" for metric in tree["metrics"])


def test_what_is_printed(capsys) -> None:
    summary.print_entry(_entry())
    lines = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "  lines: 1,500 in - 100 null_user = 1,400 out"
    assert lines[1] == "  items: 2 in + 1 kept = 3 out"
    assert [line.split() for line in lines[2:4]] == [["test", "auc"], ["base", "0.6250"]]
    assert lines[4] == "  1.2 s, peak 2.00 GB over all processes"


def test_levels_share_a_cell() -> None:
    metrics = [
        {"metric": f"used_l{n}", "value": n / 4, "variant": "rq", "slice": "all", "part": ""}
        for n in (1, 2)
    ]
    assert summary.metric_lines(metrics)[1].split() == ["rq", "0.2500", "0.5000"]


def test_summary_keeps_the_order_of_the_stages(config) -> None:
    for name in ("evaluate", "report", "ingest", "train-ranker", "evaluate"):
        summary.update(config, summary.skipped(name, "external"))
    tree = summary.read(config)
    names = [stage["name"] for stage in tree["stages"]]
    assert names == ["ingest", "train-ranker", "evaluate", "report"]
    assert {"seconds", "peak_bytes", "inputs", "outputs"} <= tree["stages"][0].keys()
