"""Mean and deviation over seeds, from the summaries that runs leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qarm import evidence
from qarm.errors import QarmError


def _metric(stage: str, metric: str, value: float, variant: str, where: str, part: str) -> dict:
    fields = {"metric": metric, "variant": variant, "slice": where, "part": part, "n": 10}
    return {"stage": stage, "value": value, "low": None, "high": None, "seed": None, **fields}


def _summary(shift: float) -> dict:
    metrics = [
        _metric("evaluate", "recall@50", 0.05, "raw", "u2i warm", "test"),
        _metric("evaluate", "recall@50", 0.07 + shift, "aligned", "u2i warm", "test"),
        _metric("evaluate", "recall_ratio@50", 1.4 + shift, "aligned/raw", "u2i warm", "test"),
        _metric("evaluate", "auc", 0.7 + shift, "base", "all", "test"),
        _metric("evaluate", "auc[top]", 0.6 + shift, "base", "all", "test"),
        _metric("evaluate", "auc_gain", shift, "base", "all", "test"),
        _metric("quality", "shared_rate", 0.2, "rq", "all", ""),
    ]
    return {"metrics": metrics, "stages": [{"name": "evaluate", "seconds": 3, "peak_bytes": 5}]}


def test_rows_are_mean_and_deviation_over_runs() -> None:
    metrics = [m for shift in (0.0, 0.1, 0.2) for m in _summary(shift)["metrics"]]
    rows = {(r.group, r.label): r.as_dict() for r in evidence.rows_of(metrics, 50)}
    ratio = rows["new-pair Recall@50, User2Item, warm", "aligned / raw"]
    assert ratio["mean"] == pytest.approx(1.5)
    assert ratio["deviation"] == pytest.approx(0.1)
    assert rows["ranker, test", "auc base"]["values"] == [0.7, 0.7 + 0.1, 0.7 + 0.2]
    assert rows["ranker, test, label top", "auc base"]["mean"] == pytest.approx(0.7)
    assert ("ranker, test", "auc_gain base over floor") in rows
    assert rows["codes, all items", "rq shared_rate"]["mean"] == pytest.approx(0.2)


def test_runs_of_all_seeds_are_told_and_absent_data_is_skipped(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    data = tmp_path / "log.parquet"
    data.write_bytes(b"")
    for name, path in (("here", "log.parquet"), ("away", "nowhere.parquet")):
        text = f'name = "{name}"\n[log]\npath = ["{path}"]\n[items]\nfrom_log = true\n'
        (tmp_path / f"{name}.toml").write_text(text)
    calls = []

    def run_seed(path, lake, seed, extra):
        calls.append((Path(path).stem, Path(lake).name, seed, list(extra)))
        return _summary(seed / 10)

    monkeypatch.setattr(evidence, "run_seed", run_seed)
    arguments = ["--configs", str(tmp_path / "away.toml"), str(tmp_path / "here.toml")]
    arguments += ["--seeds", "1", "2", "--lake", str(tmp_path / "lakes")]
    assert evidence.main([*arguments, "--set", "ranker.epochs=1"]) == 0
    assert calls == [("here", f"here-seed{s}", s, ["ranker.epochs=1"]) for s in (1, 2)]
    out = capsys.readouterr().out
    assert "away: skipped, its data is missing" in out
    assert "aligned / raw" in out
    runs = json.loads((tmp_path / "lakes" / "evidence.json").read_text())
    assert [run["name"] for run in runs] == ["here"]
    assert runs[0]["seconds"] == [3, 3]
    assert runs[0]["processor"] in out


def test_a_failed_run_is_an_error_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(QarmError, match="exit code 2"):
        evidence.run_seed(str(tmp_path / "none.toml"), str(tmp_path / "lake"), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="children are found under /proc")
def test_a_request_to_end_ends_the_pipeline_too(tmp_path: Path) -> None:
    """A source that never comes to its end stands for a long run."""
    os.mkfifo(tmp_path / "log.csv")
    config = tmp_path / "endless.toml"
    config.write_text(
        f'name = "endless"\n[log]\npath = ["{tmp_path}/log.csv"]\n[items]\nfrom_log = true\n'
    )
    command = [sys.executable, "-m", "qarm.evidence", "--configs", str(config), "--seeds", "0"]
    command += ["--lake", str(tmp_path / "lake")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        pipelines = [process.pid]
        while pipelines == [process.pid]:
            time.sleep(0.2)
            assert process.poll() is None
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            pipelines += map(int, children.split())
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    end = time.monotonic() + 20  # whoever inherits a process that has ended may take a moment
    while Path(f"/proc/{pipelines[1]}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{pipelines[1]}").exists()


def test_a_seed_moves_every_random_part() -> None:
    from qarm.config import Config

    names = [text.partition("=")[0].split(".") for text in evidence.overrides(7)]
    assert {section for section, _ in names} == {
        name
        for name, field in Config.model_fields.items()
        if {"seed", "seeds"} & set(getattr(field.annotation, "model_fields", {}))
    }
