"""What a run of assign-codes touches, by the change feed and without it; runs that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qarm.codes.codebook import Codebook
from qarm.codes.recode import Plan
from qarm.lake import manifest
from schemas import item_embeddings
from tests.lakes.codes import unit_vectors

pytestmark = pytest.mark.spark


def test_when_a_plan_is_idle_and_when_it_replaces_all() -> None:
    def plan(**counts):
        return Plan(table="a table", todo=None, leave=None, **counts)

    assert plan(before=3, same=3).idle
    assert not plan(before=3, same=2, changed=1).idle
    assert plan(before=3, changed=2, removed=1, new=5).replaces_all
    assert not plan(before=4, changed=2, removed=1).replaces_all
    assert not Plan(table=None, todo=None, leave=None).idle


def items(n, seed=0, first=0):
    return {f"i{first + i}": v for i, v in enumerate(unit_vectors(n, seed))}


def embed(world, now, *, gone=()):
    """MERGE into item_embeddings, as embed-catalog does: what differs from ``now`` is touched."""
    rows = [(i, int(i[1:]), "e1", v.tobytes().hex(), ["text"], v.tolist()) for i, v in now.items()]
    schema = (
        "item_id string, item_idx bigint, encoder_version string, content_hash string, "
        "modalities array<string>, vector array<float>"
    )
    df = world.spark.createDataFrame(rows, schema)
    left = [(i, "e1") for i in gone]
    leave = world.spark.createDataFrame(left, "item_id string, encoder_version string")
    ref = world.lake.merge(
        item_embeddings.TABLE,
        df,
        {},
        update_when="s.content_hash <> t.content_hash",
        leave=leave,
    )
    world.publish("embed-catalog", ref)


def touched(world, since):
    """(item_id, kind of change) in the feed of semantic_ids after version ``since``."""
    feed = (
        world.spark.read.format("delta")
        .option("readChangeFeed", "true")
        .option("startingVersion", since + 1)
        .load(world.lake.path("semantic_ids"))
        .where("_change_type <> 'update_preimage'")
    )
    return sorted((r["item_id"], r["_change_type"]) for r in feed.collect())


def check_codes(world, vectors):
    """The published table has the codes of ``vectors``, and nothing else."""
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    found = {r["item_id"]: (r["rq"], r["vq"]) for r in world.table("semantic_ids").collect()}
    assert set(found) == set(vectors)
    x = np.stack(list(vectors.values()))
    wanted = zip(codebook.rq(x)[0].tolist(), codebook.vq(x, 5).tolist(), strict=True)
    for item, codes in zip(vectors, wanted, strict=True):
        assert found[item] == codes


def test_change_feed_and_what_to_do_without_it(make_world, monkeypatch) -> None:
    world = make_world()
    vectors = items(60)
    embed(world, vectors)
    world.run("fit-codebooks")
    assert world.run("assign-codes")["facts"]["found_by"] == "first run"
    check_codes(world, vectors)

    # One leaves, one leaves and comes back, one changes, one changes and back again, two are new.
    version = world.lake.version("semantic_ids")
    start = world.lake.version("item_embeddings")
    embed(world, {"i8": unit_vectors(1, 8)[0]}, gone=["i3", "i4"])
    changed = {"i7": unit_vectors(1, 7)[0], **items(2, seed=5, first=60)}
    embed(world, {"i8": vectors["i8"], "i4": vectors["i4"], **changed})
    del vectors["i3"]
    vectors |= changed
    facts = world.run("assign-codes")["facts"]
    assert facts["found_by"] == (
        f"change feed of item_embeddings, versions {start + 1} to {start + 2}"
    )
    assert [facts[n] for n in ("new", "changed", "unchanged", "removed")] == [2, 1, 58, 1]
    assert touched(world, version) == [
        ("i3", "delete"),
        ("i60", "insert"),
        ("i61", "insert"),
        ("i7", "update_postimage"),
    ]
    check_codes(world, vectors)

    # Forced to run again: no new version of the vectors, none of the codes.
    version = world.lake.version("semantic_ids")
    from qarm.pipeline.runner import run_stage
    from qarm.pipeline.stages import stage

    entry = run_stage(stage("assign-codes"), world.config, world.spark, force=True)
    assert entry["facts"]["found_by"] == "no new version of item_embeddings"
    assert entry["facts"]["unchanged"] == len(vectors)
    assert world.lake.version("semantic_ids") == version

    # A run that breaks off between its MERGE and its manifest: nothing is published, and the next
    # run finds its work done.
    vectors["i9"] = unit_vectors(1, 9)[0]
    embed(world, {"i9": vectors["i9"]}, gone=["i10"])
    del vectors["i10"]
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "publish", broken)
        with pytest.raises(OSError, match="disk full"):
            world.run("assign-codes")
    after = world.lake.version("semantic_ids")
    assert after == version + 1
    assert manifest.find(world.lake.root, "assign-codes").outputs["semantic_ids"]["version"] < after
    facts = world.run("assign-codes")["facts"]
    assert facts["found_by"].startswith("comparison: semantic_ids is not as the last published")
    assert [facts[n] for n in ("new", "changed", "unchanged", "removed")] == [0, 0, 60, 0]
    assert world.lake.version("semantic_ids") == after
    check_codes(world, vectors)

    # The feed's files are gone, as after a vacuum.
    vectors["i11"] = unit_vectors(1, 11)[0]
    embed(world, {"i11": vectors["i11"]}, gone=["i12"])
    del vectors["i12"]
    shutil.rmtree(Path(world.lake.path("item_embeddings").removeprefix("file:")) / "_change_data")
    facts = world.run("assign-codes")["facts"]
    assert facts["found_by"].startswith("comparison: the change feed cannot be read")
    assert [facts[n] for n in ("new", "changed", "unchanged", "removed")] == [0, 1, 58, 1]
    check_codes(world, vectors)

    # The table is replaced: its feed would name every item twice.
    vectors |= items(1, seed=6, first=70)
    world.vectors(vectors)
    facts = world.run("assign-codes")["facts"]
    assert facts["found_by"].startswith("comparison: item_embeddings was overwritten in version")
    check_codes(world, vectors)

    world.run("fit-codebooks", seed=3)
    facts = world.run("assign-codes", seed=3)["facts"]
    assert "had another codebook_id and codebook_content" in facts["found_by"]
    assert world.table("semantic_ids").count() == len(vectors)


def broken(*_):
    raise OSError("disk full")


JOB = """
import sys
from qarm.config import Config
from qarm.pipeline.runner import run_stage
from qarm.pipeline.stages import stage
from qarm.session import open_session

config = Config.model_validate_json(sys.argv[1])
settings = {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2"}
spark = open_session("killed", master="local[1]", settings=settings)
run_stage(stage("assign-codes"), config, spark)
"""


@pytest.mark.fire
def test_killed_job_and_rerun_give_the_same_table(make_world) -> None:
    """SIGKILL to all processes of a job, as soon as its MERGE has written a file."""
    world = make_world()
    vectors = items(300)
    embed(world, vectors)
    world.run("fit-codebooks")
    world.run("assign-codes")
    embed(world, items(150, seed=5, first=100), gone=["i3"])
    vectors |= items(150, seed=5, first=100)
    del vectors["i3"]
    published = manifest.find(world.lake.root, "assign-codes").run_id
    folder = Path(world.lake.path("semantic_ids").removeprefix("file:"))
    before = set(folder.rglob("*.parquet"))
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, world.config.model_dump_json()],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 180
        while set(folder.rglob("*.parquet")) == before:
            assert job.poll() is None, "the job ended before it wrote anything"
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert manifest.find(world.lake.root, "assign-codes").run_id == published
    world.run("assign-codes")
    check_codes(world, vectors)
    version = world.lake.version("semantic_ids")
    assert world.run("assign-codes")["status"] == "skipped"
    assert world.lake.version("semantic_ids") == version
