"""Running stages: skip, publish last, gates, rows that must add up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qarm.config import Config
from qarm.errors import ConfigError, GateError, MissingStageError, RowsLostError
from qarm.lake import manifest
from qarm.ledger import Ledger, Metric, StageResult
from qarm.pipeline import lineage, runner, summary
from qarm.pipeline.stages import STAGES, Stage
from schemas import id_vectors, metrics


def _stage(monkeypatch, name: str, run, **fields) -> Stage:
    module = ModuleType(f"tiny_{name}")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    defaults = {"sections": ("ranker",), "inputs": (), "outputs": ()}
    return Stage(name=name, summary="", module=module.__name__, **{**defaults, **fields})


def _vectors(context, rows: int):
    df = context.spark.range(rows).selectExpr("id AS item_idx", "'als' AS model")
    return df.selectExpr("*", "array(cast(item_idx AS float)) AS vector")


def _writer(rows: int = 3, lost: int = 0, calls: list | None = None, metric: float = 1.0):
    def run(context) -> StageResult:
        if calls is not None:
            calls.append(context.run_id)
        context.overwrite(id_vectors.TABLE, _vectors(context, rows))
        return StageResult(
            ledgers=[Ledger(name="rows", rows_in=rows + lost, rows_out=rows)],
            metrics=[Metric(metric="auc", value=metric, n=rows, variant="base", part="test")],
        )

    return run


@pytest.fixture
def config(tmp_path) -> Config:
    return Config(lake=str(tmp_path / "lake"))


def test_second_run_is_skipped_and_says_so(spark, config, monkeypatch, capsys) -> None:
    calls: list[str] = []
    stage = _stage(monkeypatch, "one", _writer(calls=calls), outputs=("id_vectors",))
    first = runner.run_stage(stage, config, spark)
    again = runner.run_stage(stage, config, spark)
    assert (first["status"], again["status"], len(calls)) == ("done", "skipped", 1)
    assert "up to date" in capsys.readouterr().err
    runner.run_stage(stage, config, spark, force=True)
    assert calls[0] == calls[1]  # run ids come from inputs, not from a clock


def test_changed_section_runs_again_other_section_does_not(spark, config, monkeypatch) -> None:
    calls: list[str] = []
    stage = _stage(monkeypatch, "one", _writer(calls=calls), outputs=("id_vectors",))
    runner.run_stage(stage, config, spark)
    other = config.model_copy(update={"codes": config.codes.model_copy(update={"seed": 7})})
    runner.run_stage(stage, other, spark)
    assert len(calls) == 1
    changed = config.model_copy(update={"ranker": config.ranker.model_copy(update={"epochs": 9})})
    runner.run_stage(stage, changed, spark)
    assert len(calls) == 2


def test_lost_rows_fail_and_publish_nothing(spark, config, monkeypatch) -> None:
    stage = _stage(monkeypatch, "one", _writer(lost=2), outputs=("id_vectors",))
    with pytest.raises(RowsLostError, match="2 unaccounted for"):
        runner.run_stage(stage, config, spark)
    assert manifest.pinned(config.lake, "id_vectors") is None


def test_gate_stops_before_publishing(spark, config, monkeypatch) -> None:
    stage = _stage(monkeypatch, "one", _writer(metric=0.6), outputs=("id_vectors",))
    gates = config.gates.model_copy(update={"min_metric": {"auc/base/test": 0.7}})
    with pytest.raises(GateError, match=r"auc/base/test is 0\.6000, below 0\.7"):
        runner.run_stage(stage, config.model_copy(update={"gates": gates}), spark)
    assert manifest.pinned(config.lake, "id_vectors") is None


def test_an_edited_gate_runs_nothing_again_and_still_holds(spark, config, monkeypatch) -> None:
    calls: list[str] = []
    writer = _writer(metric=0.6, calls=calls)
    stage = _stage(monkeypatch, "one", writer, outputs=("id_vectors",))
    for least in (0.5, 0.55):
        gates = config.gates.model_copy(update={"min_metric": {"auc/base/test": least}})
        runner.run_stage(stage, config.model_copy(update={"gates": gates}), spark)
    gates = config.gates.model_copy(update={"min_metric": {"auc/base/test": 0.7}})
    with pytest.raises(GateError, match=r"below 0\.7\. The run stays published"):
        runner.run_stage(stage, config.model_copy(update={"gates": gates}), spark)
    assert len(calls) == 1


def test_readers_see_the_published_version_not_the_latest(spark, config, monkeypatch) -> None:
    seen: list[int] = []
    runner.run_stage(_stage(monkeypatch, "one", _writer(3), outputs=("id_vectors",)), config, spark)
    broken = _stage(monkeypatch, "one", _writer(9, lost=1), outputs=("id_vectors",))
    with pytest.raises(RowsLostError):  # commits 9 rows, then fails
        runner.run_stage(broken, config, spark, force=True)

    def read(context) -> StageResult:
        seen.append(context.table("id_vectors").count())
        return StageResult(ledgers=[Ledger(name="rows", rows_in=0, rows_out=0)])

    reader = _stage(monkeypatch, "two", read, inputs=("id_vectors",))
    runner.run_stage(reader, config, spark)
    assert seen == [3]


def test_new_input_version_runs_the_reader_again(spark, config, monkeypatch) -> None:
    writer = _stage(monkeypatch, "one", _writer(3), outputs=("id_vectors",))
    runner.run_stage(writer, config, spark)

    def read(context) -> StageResult:
        rows = context.table("id_vectors").count()
        return StageResult(ledgers=[Ledger(name="rows", rows_in=rows, rows_out=rows)])

    reader = _stage(monkeypatch, "two", read, inputs=("id_vectors",))
    assert runner.run_stage(reader, config, spark)["status"] == "done"
    assert runner.run_stage(reader, config, spark)["status"] == "skipped"
    runner.run_stage(writer, config, spark, force=True)
    assert runner.run_stage(reader, config, spark)["status"] == "done"


def test_missing_input_names_the_table(spark, config) -> None:
    mine = next(stage for stage in STAGES if stage.name == "evaluate")
    with pytest.raises(MissingStageError, match=r"needs table \w+, which no stage has published"):
        runner.run_stage(mine, config, spark)


def test_external_table_takes_the_place_of_a_stage(spark, config, tmp_path, monkeypatch) -> None:
    path = str(tmp_path / "mine.parquet")
    spark.sql("SELECT 4L item_idx, array(1.0D, 2.0D) vector").write.parquet(path)
    config = config.model_copy(
        update={"external": config.external.model_copy(update={"tables": {"id_vectors": path}})}
    )
    rows: list[dict] = []

    def read(context) -> StageResult:
        rows.extend(r.asDict() for r in context.table("id_vectors").collect())
        return StageResult(ledgers=[Ledger(name="rows", rows_in=1, rows_out=1)])

    reader = _stage(monkeypatch, "two", read, inputs=("id_vectors",))
    runner.run_stage(reader, config, spark)
    spark.sql("SELECT 4L item_idx, array(3.0D, 2.0D) vector").write.mode("overwrite").parquet(path)
    assert runner.run_stage(reader, config, spark)["status"] == "done"  # another file, another run
    assert [row["vector"] for row in rows] == [[1.0, 2.0], [3.0, 2.0]]
    unneeded = _stage(monkeypatch, "one", read, replaced_by=(("id_vectors",),))
    assert runner.run_stage(unneeded, config, spark)["status"] == "external"
    assert rows[0]["vector"] == [1.0, 2.0]
    assert rows[0]["model"].startswith("user-")


def test_summary_and_lineage(spark, config, monkeypatch) -> None:
    one = _stage(monkeypatch, "one", _writer(3), outputs=("id_vectors",))
    summary.update(config, runner.run_stage(one, config, spark))

    def copy(context) -> StageResult:
        df = context.table("id_vectors").selectExpr(
            "'r' run_id", "'two' stage", "'m' metric", "'all' slice", "'' variant",
            "0 seed", "'' part", "1.0D value", "item_idx n",
        )  # fmt: skip
        context.overwrite(metrics.TABLE, df)
        return StageResult(ledgers=[Ledger(name="rows", rows_in=3, rows_out=3)])

    two = _stage(monkeypatch, "two", copy, inputs=("id_vectors",), outputs=("metrics",))
    summary.update(config, runner.run_stage(two, config, spark))
    tree = json.loads(Path(config.lake, "summary.json").read_text())
    assert [s["name"] for s in tree["stages"]] == ["one", "two"]
    assert tree["metrics"][0]["metric"] == "auc"
    assert all(s["peak_bytes"] > 1e8 for s in tree["stages"])  # JVM included
    lines = list(lineage.trace(config, "metrics").lines())
    assert "metrics version" in lines[0]
    assert "id_vectors version" in lines[1]
    assert "<- one run" in lines[1]


def test_a_metric_gate_that_names_no_metric_is_an_error(spark, config, monkeypatch) -> None:
    gates = {"min_metric": {"auc/bas/test": 0.5}}
    config = config.model_copy(update={"gates": config.gates.model_validate(gates)})
    evaluate = _stage(
        monkeypatch, "evaluate", _writer(), outputs=("id_vectors",), completes_metrics=True
    )
    with pytest.raises(ConfigError, match=r"'auc/bas/test' .*did you mean auc/base/test"):
        runner.run_stage(evaluate, config, spark)
    assert manifest.find(config.lake, "evaluate") is None
