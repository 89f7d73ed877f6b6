"""Someone else's log through all stages on a standalone cluster under fire, and in local mode.

Local mode has the stages whose tables are compared; the tests of the others run them there.
design.md: ingest, counts, samples, and codes of given vectors are exactly equal; floating sums to
1e-4; training is compared on pinned inputs at the same number of ranks.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from qarm.cli import main
from qarm.config import load
from qarm.config.gates import Gates
from qarm.lake import files, manifest
from qarm.lake.tables import Lake
from qarm.pipeline.lineage import trace
from qarm.pipeline.metric_gates import check_names, names_of
from tests.jobs.cluster import ROOT, Cluster, has_qarm, kill_an_executor, standalone, submit
from tests.lakes import news

# Both runs come before the first comparison.
pytestmark = [pytest.mark.timeout(1500), pytest.mark.slow]

#: What stages say while an executor is killed.
UNDER_FIRE = ("mine-pairs: Swing pairs", "embed-catalog: encoding", "changed items to code")
EXACT = {
    "items": ["item_id"],
    "users": ["user_id"],
    "interactions": ["user_idx", "item_idx", "event", "ts"],
    "event_splits": ["user_idx", "item_idx", "event", "ts"],
    "ranking_samples": ["sample_id"],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_text_model) -> Path:
    return news.write(tmp_path_factory.mktemp("news"), tiny_text_model)


@pytest.fixture(scope="module")
def local(spark, config: Path) -> tuple[Path, str]:
    """Run the stages that are compared in local mode: the lake, and what was said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["run", "--config", str(config), "--to", "ingest"]) == 0
        assert main(["run", "--config", str(config), "--to", "assign-codes"]) == 0
        assert main(["build-samples", "--config", str(config)]) == 0
    return config.parent / "lake", said.getvalue()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with standalone(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def lakes(local: tuple[Path, str], config: Path, cluster: Cluster) -> tuple[Path, Path]:
    """The lake of local mode, and that of the same run by spark-submit on the cluster.

    The cluster's run takes local mode's ID vectors, so that what follows has pinned inputs. While
    it mines, embeds and assigns, an executor is killed.
    """
    remote = config.parent / "remote"
    waiting, killed = list(UNDER_FIRE), []

    def fire(line: str) -> None:
        if waiting and waiting[0] in line:
            killed.append((waiting.pop(0), kill_an_executor()))

    vectors = manifest.pinned(str(local[0]), "id_vectors")
    assert vectors is not None
    submit(
        cluster, ROOT / "jobs" / "run.py", "--config", str(config), "--lake", str(remote),
        "--set", f"external.tables.id_vectors={json.dumps(vectors.path)}", heard=fire,
    )  # fmt: skip
    assert not waiting, f"never said {waiting[0]!r}"
    assert len({pid for _, pid in killed}) == len(UNDER_FIRE)
    return local[0], remote


def _rows(spark, lake: Path, table: str, keys: list[str]):
    ref = manifest.pinned(str(lake), table)
    assert ref is not None
    return Lake(spark, str(lake)).read(ref).orderBy(*keys).toPandas()


@pytest.mark.cluster
def test_own_log_goes_through_all_stages_by_configuration_alone(local, lakes) -> None:
    said = local[1]
    assert "the log names no valid part; the latest 0.1 of train" in said
    assert "ingest: up to date" in said
    lake = lakes[1]
    tree = json.loads((lake / "summary.json").read_text())
    stages = {stage["name"]: stage for stage in tree["stages"]}
    assert len(stages) == 11
    assert stages["ingest"]["dropped"]["unknown_item"] == 1
    assert stages["ingest"]["rows_in"] == news.USERS * 40 + 1
    assert "observed" in stages["build-samples"]["facts"]["negative_kinds"]
    counts = stages["train-alignment"]["facts"]["features"]["image"]
    assert (counts["encoded"], counts["missing"] + counts["unreadable"]) == (news.ITEMS - 1, 1)
    assert stages["assign-codes"]["rows_out"] == news.ITEMS
    aucs = {
        (m["metric"], m["variant"])
        for m in tree["metrics"]
        if m["stage"] == "evaluate" and m["part"] == "test" and m["slice"] == "all"
    }
    for variant in ("base", "vq_rq", "floor"):
        assert {("auc", variant), ("auc[long]", variant)} <= aucs
    assert "News 3" in (lake / "report.html").read_text()
    # Every metric can be named by a gate.
    names = [name for metric in tree["metrics"] for name in names_of(metric)]
    check_names(Gates(min_metric=dict.fromkeys(names, 0.0)))


@pytest.mark.cluster
def test_lineage_goes_from_predictions_to_the_source_files(lakes, config: Path) -> None:
    found = load(str(config), [f"lake={json.dumps(str(lakes[1]))}"])
    lines = [line.strip() for line in trace(found, "predictions").lines()]
    for name in ("ranking_samples", "semantic_ids", "codebooks", "item_embeddings", "encoder"):
        assert any(line.startswith(f"{name} version") for line in lines), name
    for name in ("item_pairs", "interactions", "items", "event_splits"):
        assert any(line.startswith(f"{name} version") for line in lines), name
    assert not any("no manifest is left" in line for line in lines)
    described = files.describe(found.log.path[0])[0]
    assert f"{described['name']} ({described['size']:,} bytes, mark {described['mark']})" in lines


def test_what_is_up_to_date_does_not_run_again(local, config: Path, capsys) -> None:
    stages = ["fit-codebooks", "assign-codes"]
    order = ["--from", stages[0], "--to", stages[1]]
    assert main(["run", "--config", str(config), *order]) == 0
    said = capsys.readouterr().err
    for stage in stages:
        assert f"{stage}: up to date" in said


@pytest.mark.cluster
def test_qarm_travels_as_a_wheel(lakes, cluster: Cluster) -> None:
    """Each worker's executors got the wheel; their Python has no qarm of its own."""
    for number in range(2):
        assert list(cluster.folder.glob(f"work{number}/app-*/*/{cluster.wheel.name}"))
    assert not has_qarm(cluster.python)


@pytest.mark.cluster
@pytest.mark.parametrize("table", sorted(EXACT))
def test_tables_are_exactly_equal(spark, lakes, table: str) -> None:
    local, remote = (_rows(spark, lake, table, EXACT[table]) for lake in lakes)
    columns = [c for c in local.columns if c != "image"]
    assert len(local) > 0
    for column in columns:
        assert local[column].map(_plain).tolist() == remote[column].map(_plain).tolist(), column


@pytest.mark.cluster
def test_pairs_have_equal_counts_and_scores(spark, lakes) -> None:
    keys = ["source", "trigger", "target"]
    local, remote = (_rows(spark, lake, "item_pairs", keys) for lake in lakes)
    assert local[[*keys, "support"]].equals(remote[[*keys, "support"]])
    np.testing.assert_allclose(local["score"], remote["score"], rtol=1e-4)


@pytest.mark.cluster
def test_training_on_pinned_inputs_gives_equal_vectors_and_codes(spark, lakes) -> None:
    local, remote = (_rows(spark, lake, "item_embeddings", ["item_idx"]) for lake in lakes)
    a, b = (np.stack(df["vector"].tolist()) for df in (local, remote))
    np.testing.assert_allclose(a, b, atol=1e-4)
    local, remote = (_rows(spark, lake, "semantic_ids", ["item_idx"]) for lake in lakes)
    same = [x == y for x, y in zip(local["rq"].map(list), remote["rq"].map(list), strict=True)]
    assert np.mean(same) > 0.999  # vectors within 1e-4 of a border between two centroids may differ


@pytest.mark.cluster
def test_ranks_ran_inside_executors_and_lost_no_row(lakes) -> None:
    trained = (["train-alignment"], ["train-alignment", "train-ranker"])
    for lake, names in zip(lakes, trained, strict=True):
        tree = json.loads((lake / "summary.json").read_text())
        stages = {stage["name"]: stage for stage in tree["stages"]}
        for name in names:
            per_rank = stages[name]["facts"]["rows_per_rank"]
            assert len(per_rank) == 2
            assert all(rows > 0 for rows in per_rank)


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)
