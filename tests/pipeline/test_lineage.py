"""Lineage names the run that wrote a version, not the latest run of its stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qarm.config import Config
from qarm.errors import MissingStageError
from qarm.lake import manifest
from qarm.pipeline.lineage import trace


@pytest.fixture
def root(tmp_path: Path) -> str:
    """An empty lake."""
    return str(tmp_path / "lake")


def _ref(root: str, name: str, version: int) -> dict[str, Any]:
    return {"name": name.removeprefix("external_"), "path": f"{root}/tables/{name}",
            "version": version}  # fmt: skip


def _run(
    root: str,
    stage: str,
    run_id: str,
    inputs: dict[str, int],
    outputs: dict[str, int],
    **fields: Any,
) -> None:
    """Publish as the runner does; tables are name -> version."""
    manifest.publish(
        root,
        manifest.Manifest(
            stage=stage,
            run_id=run_id,
            config_hash=f"config-{run_id}",
            code_version=f"code-{run_id}",
            inputs={n.removeprefix("external_"): _ref(root, n, v) for n, v in inputs.items()},
            outputs={n: _ref(root, n, v) for n, v in outputs.items()},
            **fields,
        ),
    )


def _lines(config: Config, name: str) -> list[str]:
    return list(trace(config, name).lines())


def _commit(root: str, table: str, version: int, metadata: dict[str, Any]) -> None:
    """A commit of the Delta log, as Lake writes it."""
    log = Path(root, "tables", table, "_delta_log")
    log.mkdir(parents=True, exist_ok=True)
    info = {"commitInfo": {"userMetadata": json.dumps(metadata)}}
    (log / f"{version:020d}.json").write_text(json.dumps(info) + '\n{"add": {}}\n')


def test_a_later_run_upstream_does_not_take_the_credit(root) -> None:
    config = Config(lake=root)
    _run(root, "ingest", "i1", {}, {"items": 1})
    _run(root, "mine-pairs", "m1", {"items": 1}, {"item_pairs": 1})
    _run(root, "train-alignment", "t1", {"item_pairs": 1}, {"alignment_pairs": 1})
    _run(root, "mine-pairs", "m2", {"items": 1}, {"item_pairs": 3})
    lines = _lines(config, "alignment_pairs")
    assert lines[:3] == [
        "alignment_pairs version 1 <- train-alignment run t1, config config-t1, code code-t1",
        "  item_pairs version 1 <- mine-pairs run m1, config config-m1, code code-m1",
        "    items version 1 <- ingest run i1, config config-i1, code code-i1",
    ]
    assert _lines(config, "item_pairs")[0].startswith("item_pairs version 3 <- mine-pairs run m2")


def test_log_files_of_each_part_and_the_catalogue_are_named(root) -> None:
    config = Config.model_validate(
        {
            "lake": root,
            "split": {"kind": "files", "files": {"train": ["/log/a.csv"], "test": ["/log/b.csv"]}},
            "items": {"path": ["/items.jsonl"]},
        }
    )
    _run(root, "ingest", "i1", {}, {"items": 1})
    lines = [line.split()[0] for line in _lines(config, "items")]
    assert lines == ["items", "/log/a.csv", "/log/b.csv", "/items.jsonl"]
    # The files are those of today's configuration, which is not that of the run.
    assert all("another config" in line for line in _lines(config, "items")[1:])


def test_tables_of_the_user_are_said_to_be(root) -> None:
    config = Config.model_validate({"lake": root, "external": {"tables": {"id_vectors": "/v"}}})
    _run(root, "mine-pairs", "m0", {}, {"item_pairs": 2})
    _run(root, "train-alignment", "t1", {"external_item_pairs": 2}, {"alignment_pairs": 1})
    assert _lines(config, "alignment_pairs")[1] == (
        "  item_pairs version 2 (the user's own, source not known)"
    )
    _commit(root, "external_item_pairs", 2, {"stage": "train-alignment", "source": "s3a://mine"})
    assert _lines(config, "alignment_pairs")[1] == (
        "  item_pairs version 2 (the user's own, s3a://mine)"
    )
    assert _lines(config, "id_vectors") == ["id_vectors (the user's own, /v)"]


def test_of_runs_that_published_one_version_the_commit_says_which_wrote_it(root) -> None:
    """The second run changed nothing, so it made no commit."""
    config = Config(lake=root)
    _run(root, "ingest", "z-first", {}, {"items": 1})
    _run(root, "ingest", "a-second", {}, {"items": 1})
    _commit(root, "items", 1, {"stage": "ingest", "run_id": "z-first"})
    assert "run z-first" in _lines(config, "items")[0]


def test_a_forced_run_replaces_its_manifest_and_the_commit_remains(root) -> None:
    config = Config(lake=root)
    _run(root, "mine-pairs", "m1", {}, {"item_pairs": 1})
    _run(root, "train-alignment", "t1", {"item_pairs": 1}, {"alignment_pairs": 1})
    _run(root, "mine-pairs", "m1", {}, {"item_pairs": 3})  # forced: the same run id
    assert _lines(config, "alignment_pairs")[1] == (
        "  item_pairs version 1 <- a run of which no manifest is left"
    )
    _commit(
        root,
        "item_pairs",
        1,
        {"stage": "mine-pairs", "run_id": "m1", "config_hash": "c", "code_version": "v",
         "inputs": {"items": _ref(root, "items", 4)}},
    )  # fmt: skip
    assert _lines(config, "alignment_pairs")[1:] == [
        "  item_pairs version 1 <- mine-pairs run m1, config c, code v",
        "    items version 4 <- a run of which no manifest is left",
    ]


def test_from_the_ranker_through_the_encoder_to_the_source_files(root) -> None:
    """Artifacts are traced like tables: to the run that made the version that was read."""
    config = Config(lake=root)
    file = {"name": "/log/a.csv", "size": 12345, "mark": "7.5"}
    _run(root, "ingest", "i1", {}, {"items": 1}, sources=[file], result={"rows_in": 9000})
    _run(root, "mine-pairs", "m1", {"items": 1}, {"item_pairs": 1})
    encoders = [{"encoder": {"uri": f"/e{n}", "version": f"e{n}"}} for n in (1, 2)]
    _run(root, "train-alignment", "t1", {"item_pairs": 1}, {}, artifacts=encoders[0])
    read = {"train-alignment/encoder": encoders[0]["encoder"]}
    _run(root, "embed-catalog", "v1", {"items": 1}, {"item_embeddings": 1}, artifact_inputs=read)
    _run(root, "train-alignment", "t2", {"item_pairs": 1}, {}, artifacts=encoders[1])
    ranker = {"ranker": {"uri": "/r", "version": "r1"}}
    _run(root, "train-ranker", "k1", {"item_embeddings": 1, "items": 1}, {}, artifacts=ranker)
    lines = _lines(config, "ranker")
    assert [line.split(" <-")[0] for line in lines] == [
        "ranker version r1",
        "  item_embeddings version 1",
        "    items version 1",
        "      /log/a.csv (12,345 bytes, mark 7.5)",
        "    encoder version e1",
        "      item_pairs version 1",
        "        items version 1 (as above)",
        "  items version 1 (as above)",
    ]
    assert lines[2].endswith("code code-i1, 9,000 rows in")
    assert "train-alignment run t1," in lines[4]
    assert "train-alignment run t2," in _lines(config, "encoder")[0]
    tree = trace(config, "ranker").as_dict()
    assert tree["inputs"][0]["inputs"][0]["sources"] == [file]


def test_nobody_has_published_it(root) -> None:
    _run(root, "ingest", "i1", {}, {"items": 1})
    with pytest.raises(
        MissingStageError, match=r"no stage has published metrics.*published: items"
    ):
        trace(Config(lake=root), "metrics")
