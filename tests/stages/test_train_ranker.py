"""Stage train-ranker end to end: two Horovod ranks over Petastorm, the floor beside them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load

from qarm.errors import InputError, RowsLostError
from qarm.lake import files
from qarm.lake import manifest as manifests
from qarm.stages import build_samples, train_ranker
from schemas import TABLES
from tests.lakes.ranking import (
    CODEBOOK,
    context_on,
    publish_codes,
    publish_log,
    publish_outputs,
    random_log,
)

ITEMS = 15


@pytest.fixture(scope="module")
def root(spark, tmp_path_factory) -> Path:
    """A folder with a lake that has samples and codes."""
    root = tmp_path_factory.mktemp("ranker")
    section = {"history_length": 5}
    context = context_on(spark, root, "build-samples", samples=section)
    publish_log(context, random_log(events=500))
    publish_codes(context, ITEMS)
    publish_outputs(context, build_samples.run(context))
    return root


@pytest.mark.horovod
def test_two_ranks_predict_every_held_out_sample_once(spark, root):
    ranker = {
        "variants": ["base", "vector", "vq_rq"],
        "id_dropout": [0.0, 0.5],
        "epochs": 2,
        "batch_size": 16,
    }
    context = context_on(spark, root, "train-ranker", ranker=ranker, training={"ranks": 2})
    result = train_ranker.run(context)
    result.ledgers[0].close("train-ranker")
    samples = context.table("ranking_samples").where("part != 'train'")
    expected = {r["sample_id"]: r.asDict() for r in samples.collect()}
    rows = context.lake.read(context.outputs["predictions"]).collect()
    seen: dict[tuple, list] = {}
    for row in rows:
        seen.setdefault((row["variant"], row["seed"], row["head"]), []).append(row)
        sample = expected[row["sample_id"]]
        assert row["label"] == sample[f"label_{row['head']}"]
        assert 0 <= row["score"] <= 1
        for name in ("user_idx", "item_idx", "part", "is_repeat", "item_train_events", "weight"):
            assert row[name] == sample[name]
    variants = ["floor", *ranker["variants"]]
    assert set(seen) == {(v, 0, head) for v in variants for head in ("positive", "top")}
    for key, scored in seen.items():
        assert sorted(r["sample_id"] for r in scored) == sorted(expected), key
        assert len({r["score"] for r in scored}) > len(scored) / 4, key

    trials = result.facts["trials"]
    assert [(t["variant"], t["id_dropout"]) for t in trials] == [
        (v, d) for v in ranker["variants"] for d in (0.0, 0.5)
    ]
    for variant in ranker["variants"]:
        own = [t for t in trials if t["variant"] == variant]
        chosen = [t for t in own if t["chosen"]]
        assert len(chosen) == 1
        assert chosen[0]["auc"] == max(t["auc"] for t in own) == max(max(t["epochs"]) for t in own)
    train = context.table("ranking_samples").where("part = 'train'").count()
    assert len(result.facts["rows_per_rank"]) == 2
    assert sum(result.facts["rows_per_rank"]) == train

    models = result.artifacts["ranker"]["models"]
    assert set(models) == {f"{v}/0" for v in ranker["variants"]}
    manifest = json.loads(files.read_text(files.join(models["vq_rq/0"]["uri"], "manifest.json")))
    assert manifest["codebook_id"] == CODEBOOK.codebook_id
    with files.open_file(files.join(models["vq_rq/0"]["uri"], "model.safetensors")) as file:
        tensors = load(file.read())
    assert tensors["items.codes.vq.weight"].shape == (7, 8)
    assert "rq_prefixes.1" in tensors
    assert not files.exists(context.work_dir("checkpoints"))


@pytest.mark.horovod
def test_predictions_that_are_lost_do_not_add_up(spark, root, monkeypatch) -> None:
    """Fault injected: a tenth of the models' scores does not reach the table."""
    rows = train_ranker._ranker_rows
    monkeypatch.setattr(
        train_ranker,
        "_ranker_rows",
        lambda *given: rows(*given).where("monotonically_increasing_id() % 10 <> 0"),
    )
    ranker = {"variants": ["base"], "epochs": 1, "batch_size": 64}
    context = context_on(spark, root, "train-ranker", ranker=ranker, training={"ranks": 1})
    with pytest.raises(RowsLostError, match="held-out samples"):
        train_ranker.run(context).ledgers[0].close("train-ranker")


def test_codes_of_two_codebooks(spark, root):
    context = context_on(spark, root, "train-ranker", ranker={"variants": ["rq"]})
    both = context.table("semantic_ids")
    other = both.selectExpr("* EXCEPT (codebook_id)", "'other' AS codebook_id")
    context.inputs["semantic_ids"] = context.lake.overwrite(
        TABLES["semantic_ids"], both.unionByName(other), {"stage": "test"}
    )
    with pytest.raises(InputError, match="2 values of codebook_id"):
        train_ranker.run(context)


def test_models_that_are_published_stay_while_others_are_trained(tmp_path) -> None:
    context = SimpleNamespace(
        lake=SimpleNamespace(root=str(tmp_path)),
        stage="train-ranker",
        work_dir=lambda name: f"{tmp_path}/run/{name}",
    )
    folders = []
    for _ in range(3):
        folder = train_ranker._folder_of_models(context)
        assert folder not in folders[-1:]
        folders.append(folder)
        artifacts = {"ranker": {"uri": folder}}
        manifests.publish(
            str(tmp_path), manifests.Manifest("train-ranker", "r", "c", "v", {}, {}, artifacts)
        )
    assert folders[0] == folders[2]
