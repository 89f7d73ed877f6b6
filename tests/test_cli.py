"""The command line: help, exit codes, messages without tracebacks."""

from __future__ import annotations

import pytest

from qarm import cli
from qarm.pipeline.stages import STAGES


def test_help_lists_every_stage(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert all(stage.name in out for stage in STAGES)
    assert "exit codes" in out


def test_every_stage_and_job_has_help(capsys) -> None:
    for stage in STAGES:
        with pytest.raises(SystemExit) as done:
            cli.main([stage.name, "--help"])
        assert done.value.code == 0
        with pytest.raises(SystemExit) as done:
            cli.job(stage.name, ["--help"])
        assert done.value.code == 0
    assert "--as-of" in capsys.readouterr().out


def test_bad_configuration_is_exit_code_2_without_a_traceback(tmp_path, capsys) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[ranker]\nepoch = 3")
    assert cli.main(["run", "--config", str(path)]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'epochs'" in err
    assert "Traceback" not in err


def test_bad_time_says_what_was_expected(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--config", "x", "--as-of", "yesterday"])
    assert "expected an ISO date" in capsys.readouterr().err


def test_settings_and_tables(capsys) -> None:
    assert cli.main(["settings", "ranker"]) == 0
    assert "ranker.id_dropout = [0.0]" in capsys.readouterr().out
    assert cli.main(["tables", "item_pairs"]) == 0
    assert "| `trigger` | `bigint` | no |" in capsys.readouterr().out


def test_what_would_do_nothing_is_an_error(tmp_path, capsys) -> None:
    path = tmp_path / "x.toml"
    path.write_text("")
    order = ["--from", "report", "--to", "ingest"]
    assert cli.main(["run", "--config", str(path), *order]) == 2
    assert "--from report comes after --to ingest" in capsys.readouterr().err
    assert cli.main(["tables", "nonsuch"]) == 2
    assert "no table 'nonsuch'; tables: items" in capsys.readouterr().err


def test_lineage_of_an_empty_lake_is_exit_code_7(tmp_path, capsys) -> None:
    path = tmp_path / "x.toml"
    path.write_text("")
    code = cli.main(["lineage", "--config", str(path), "--lake", str(tmp_path), "items"])
    assert code == 7
    assert "no stage has published items" in capsys.readouterr().err
