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
from qarm.codes.recode import Plan, Target, plan_recode
from qarm.lake import manifest
from schemas import item_embeddings
from tests.lakes.codes import catalogue, touched, unit_vectors
from tests.lakes.copies import drop_column

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
    left = [(i, "e1") for i in gone]
    leave = world.spark.createDataFrame(left, "item_id string, encoder_version string")
    ref = world.lake.merge(
        item_embeddings.TABLE,
        world.frame(now),
        {},
        update_when="s.content_hash <> t.content_hash",
        leave=leave,
    )
    world.publish("embed-catalog", ref)


def check_codes(world, vectors):
    """The published table has the codes of ``vectors``, and nothing else."""
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    found = {r["item_id"]: (r["rq"], r["vq"]) for r in world.table("semantic_ids").collect()}
    assert set(found) == set(vectors)
    x = np.stack(list(vectors.values()))
    wanted = zip(codebook.rq(x)[0].tolist(), codebook.vq(x, 5).tolist(), strict=True)
    for item, codes in zip(vectors, wanted, strict=True):
        assert found[item] == codes


def rows_of(world):
    return {r["item_id"]: r for r in world.table("semantic_ids").collect()}


def plan(world) -> Plan:
    """What assign-codes would do now, under the codebook of ``coded_lake``."""
    vectors = world.table("item_embeddings")
    target = Target(
        codebook=Codebook.from_rows(world.table("codebooks").toArrow()),
        encoder="e1",
        vectors=vectors,
        rows=vectors.count(),
        vq_k=5,
    )
    root = world.lake.root
    embeddings = manifest.pinned(root, "item_embeddings")
    return plan_recode(world.lake, target, embeddings, manifest.find(root, "assign-codes"))


def test_change_feed_and_what_to_do_without_it(make_coded, monkeypatch, capsys) -> None:
    world, vectors = make_coded(), catalogue()
    assert manifest.find(world.lake.root, "assign-codes").facts["found_by"] == "first run"
    drop_column(world.lake, "semantic_ids", "rq_resolved")  # as a release without the resolver

    # One leaves, one leaves and comes back, one changes, one changes and back again, two are new.
    version = world.lake.version("semantic_ids")
    start = world.lake.version("item_embeddings")
    embed(world, {"i8": unit_vectors(1, 8)[0]}, gone=["i3", "i4"])
    changed = {"i7": unit_vectors(1, 7)[0], **items(2, seed=5, first=61)}
    embed(world, {"i8": vectors["i8"], "i4": vectors["i4"], **changed})
    del vectors["i3"]
    vectors |= changed
    found = plan(world)
    by_feed = f"change feed of item_embeddings, versions {start + 1} to {start + 2}"
    assert found.found_by == by_feed
    assert (found.new, found.changed, found.same, found.removed) == (2, 1, 59, 1)

    # A run that breaks off between its MERGE and its manifest: nothing is published, and the next
    # run finds its work done.
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "publish", broken)
        with pytest.raises(OSError, match="disk full"):
            world.run("assign-codes")
    assert f"59 unchanged, 1 rows leave ({by_feed})" in capsys.readouterr().err
    after = world.lake.version("semantic_ids")
    assert after == version + 2  # the column that was lacking, and the MERGE
    assert manifest.find(world.lake.root, "assign-codes").outputs["semantic_ids"]["version"] < after
    assert touched(world, version) == [
        ("i3", "delete"),
        ("i61", "insert"),
        ("i62", "insert"),
        ("i7", "update_postimage"),
        ("i7", "update_preimage"),
    ]
    facts = world.run("assign-codes")["facts"]
    assert facts["found_by"].startswith("comparison: semantic_ids is not as the last published")
    assert [facts[n] for n in ("new", "changed", "unchanged", "removed")] == [0, 0, 62, 0]
    assert world.lake.version("semantic_ids") == after
    check_codes(world, vectors)

    # No new version of the vectors.
    found = plan(world)
    assert found.found_by == "no new version of item_embeddings"
    assert (found.same, found.idle) == (len(vectors), True)

    # The feed's files are gone, as after a vacuum: one leaves, one changes, two are new.
    before = rows_of(world)
    changed = {"i11": unit_vectors(1, 11)[0], **items(2, seed=6, first=63)}
    embed(world, changed, gone=["i12"])
    vectors |= changed
    del vectors["i12"]
    shutil.rmtree(Path(world.lake.path("item_embeddings")) / "_change_data")
    entry = world.run("assign-codes")
    facts = entry["facts"]
    assert facts["found_by"].startswith("comparison: the change feed cannot be read")
    assert [facts[n] for n in ("new", "changed", "unchanged", "removed")] == [2, 1, 60, 1]
    ids = entry["ledgers"][0]
    assert (ids["rows_in"], ids["rows_out"]) == (62, 63)
    assert ids["added"] == {"new_item": 2}
    assert ids["dropped"] == {"removed_item": 1, "older_codebook": 0}
    assert touched(world, after) == [
        ("i11", "update_postimage"),
        ("i11", "update_preimage"),
        ("i12", "delete"),
        ("i63", "insert"),
        ("i64", "insert"),
    ]
    check_codes(world, vectors)
    now = rows_of(world)
    assert all(now[i] == before[i] for i in now if i not in changed)

    # The table is replaced by the same vectors: its feed would name every item twice.
    world.vectors(vectors)
    found = plan(world)
    assert found.found_by.startswith("comparison: item_embeddings was overwritten in version")
    assert (found.same, found.idle) == (len(vectors), True)

    # Codes of older codebooks leave, and all are replaced at once.
    world.run("fit-codebooks", rq_levels=[9, 8, 7])
    entry = world.run("assign-codes", rq_levels=[9, 8, 7])
    assert "had another codebook_id and codebook_content" in entry["facts"]["found_by"]
    assert entry["ledgers"][0]["dropped"]["older_codebook"] == 63
    rows = rows_of(world)
    assert set(rows) == set(vectors)
    assert {len(r["rq"]) for r in rows.values()} == {3}


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
def test_killed_job_and_rerun_give_the_same_table(make_coded) -> None:
    """SIGKILL to all processes of a job, as soon as its MERGE has written a file."""
    world = make_coded()
    others = items(300, seed=5, first=40)
    embed(world, others, gone=["i3"])
    vectors = catalogue() | others
    del vectors["i3"]
    published = manifest.find(world.lake.root, "assign-codes").run_id
    folder = Path(world.lake.path("semantic_ids"))
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
