"""Stage assign-codes on a lake: codes of the catalogue, and what a second run touches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from qarm.codes.assign import assign_codes, assign_files
from qarm.codes.codebook import Codebook
from qarm.errors import InputError
from qarm.lake import manifest
from qarm.stages.assign_codes import _encoder
from schemas import codebooks, item_embeddings
from tests.lakes.codes import unit_vectors

pytestmark = pytest.mark.spark


def items(n, seed=0, first=0):
    return {f"i{first + i}": v for i, v in enumerate(unit_vectors(n, seed))}


def test_the_encoder_that_is_coded() -> None:
    named = Codebook(levels=(unit_vectors(3),), encoder_version="e1")
    assert _encoder(named, {"e1": 5, "e2": 5}) == "e1"
    own = Codebook(levels=(unit_vectors(3),))
    assert _encoder(own, {"e2": 5}) == "e2"
    with pytest.raises(InputError, match=r"is of encoder \(not named\)"):
        _encoder(own, {"e1": 5, "e2": 5})


def codes_of(world):
    return {r["item_id"]: r for r in world.table("semantic_ids").collect()}


def changes(world, since):
    """Rows of the change feed after version ``since``: (item_id, kind of change)."""
    feed = (
        world.spark.read.format("delta")
        .option("readChangeFeed", "true")
        .option("startingVersion", since + 1)
        .load(world.lake.path("semantic_ids"))
    )
    rows = feed.select("item_id", "_change_type").collect()
    return sorted((r["item_id"], r["_change_type"]) for r in rows)


def test_codes_of_the_catalogue_and_what_later_runs_touch(make_world) -> None:
    world = make_world()
    vectors = items(60) | {"i60": np.zeros(11, np.float32)}
    world.vectors(vectors)
    world.run("fit-codebooks")
    first = world.run("assign-codes")
    assert (first["rows_in"], first["rows_out"], first["dropped"]) == (61, 61, {})
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    x = np.stack(list(vectors.values()))
    rq, left = codebook.rq(x)
    vq = codebook.vq(x, 5)
    before, version = codes_of(world), world.lake.version("semantic_ids")
    for number, item in enumerate(vectors):
        row = before[item]
        assert row["rq"] == rq[number].tolist()
        assert row["vq"] == vq[number].tolist()
        assert row["residual_error"] == left[number]
        assert row["item_idx"] == number
        assert row["codebook_id"] == codebook.codebook_id
        assert row["encoder_version"] == "e1"
        assert str(row["assigned_at"]) == "1970-01-01 00:00:00"
        assert row["rq_resolved"] is None

    assert world.run("assign-codes")["status"] == "skipped"
    # The same vectors under a new table version: the stage runs, and commits nothing.
    world.vectors(vectors)
    again = world.run("assign-codes")
    assert again["status"] == "done"
    assert world.lake.version("semantic_ids") == version
    assert again["facts"]["unchanged"] == 61

    # One item leaves, one changes, two are new: their rows are touched, no others.
    del vectors["i3"]
    vectors["i7"] = unit_vectors(1, seed=9)[0]
    vectors |= items(2, seed=5, first=61)
    world.vectors(vectors)
    entry = world.run("assign-codes")
    assert changes(world, version) == [
        ("i3", "delete"),
        ("i61", "insert"),
        ("i62", "insert"),
        ("i7", "update_postimage"),
        ("i7", "update_preimage"),
    ]
    after = codes_of(world)
    assert set(after) == set(vectors)
    assert all(after[i] == before[i] for i in after if i not in ("i7", "i61", "i62"))
    for item in ("i7", "i61"):
        assert after[item]["rq"] == codebook.rq(vectors[item][None])[0][0].tolist()
    ids = entry["ledgers"][0]
    assert (ids["rows_in"], ids["rows_out"]) == (61, 62)
    assert (ids["added"], ids["dropped"]) == (
        {"new_item": 2},
        {"removed_item": 1, "older_codebook": 0},
    )


def test_codes_of_older_codebooks_leave(make_world) -> None:
    world = make_world()
    world.vectors(items(60))
    world.run("fit-codebooks")
    world.run("assign-codes")
    world.run("fit-codebooks", rq_levels=[9, 8, 7])
    entry = world.run("assign-codes", rq_levels=[9, 8, 7])  # replaces all codes at once
    assert entry["ledgers"][0]["dropped"]["older_codebook"] == 60
    assert {len(r["rq"]) for r in codes_of(world).values()} == {3}


def test_tasks_that_read_the_files_give_the_same_codes(make_world) -> None:
    world = make_world()
    world.vectors(items(60))
    world.run("fit-codebooks")
    ours = world.table("item_embeddings")
    other = ours.withColumn("encoder_version", F.lit("e0"))
    ref = world.lake.overwrite(item_embeddings.TABLE, ours.unionByName(other), {})
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    broadcast = world.spark.sparkContext.broadcast(codebook)
    read = assign_files(world.lake, ref, "e1", broadcast, 5).collect()
    handed_over = assign_codes(ours, broadcast, 5).collect()
    assert len(read) == 60
    assert sorted(read) == sorted(handed_over)
    world.publish("embed-catalog", ref)
    entry = world.run("assign-codes")
    assert entry["dropped"] == {"encoder e0": 60}
    assert sorted(codes_of(world)) == sorted(row["item_id"] for row in read)


def test_codebook_of_another_encoder(make_world) -> None:
    world = make_world()
    world.vectors(items(60))
    world.run("fit-codebooks")
    world.vectors(items(60), encoder="e2")
    with pytest.raises(InputError, match=r"is of encoder e1, item_embeddings has vectors of \['e2"):
        world.run("assign-codes")
    assert world.lake.version("semantic_ids") == -1


def test_a_damaged_codebook_is_refused(make_world) -> None:
    world = make_world()
    world.vectors(items(60))
    world.run("fit-codebooks")
    first = (F.col("kind") == "rq") & (F.col("level") == 0) & (F.col("code") == 0)
    flipped = F.when(first, F.transform("vector", lambda x: -x)).otherwise(F.col("vector"))
    damaged = world.table("codebooks").withColumn("vector", flipped).localCheckpoint()
    ref = world.lake.overwrite(codebooks.TABLE, damaged, {})
    published = manifest.find(world.lake.root, "fit-codebooks")
    outputs = {"codebooks": ref.as_dict()}
    manifest.publish(world.lake.root, dataclasses.replace(published, outputs=outputs))
    with pytest.raises(InputError, match=r"/codebooks is damaged: its contents have the hash"):
        world.run("assign-codes")
    assert manifest.find(world.lake.root, "assign-codes") is None


def test_bad_vectors_stop_the_stage_with_their_reason(make_world) -> None:
    world = make_world()
    world.vectors(items(60))
    world.run("fit-codebooks")
    bad = items(60)
    bad["i5"] = np.full(11, np.nan, np.float32)
    world.vectors(bad)
    with pytest.raises(InputError, match=r"1 of \d+ vectors have NaN or infinity"):
        world.run("assign-codes")
    world.vectors({i: v[:7] for i, v in items(60).items()}, mark="short")
    with pytest.raises(InputError, match="is of 11 dimensions, the vectors have shape"):
        world.run("assign-codes")
    assert manifest.find(world.lake.root, "assign-codes") is None


def test_nothing_but_vectors(make_world, write_vectors) -> None:
    """Somebody who has a Parquet file of (item_id, vector) and no log, no catalogue."""
    vectors = {f"sku-{i}": v for i, v in enumerate(unit_vectors(50))}
    path = write_vectors(vectors)
    world = make_world(external={"tables": {"item_embeddings": path}})
    world.run("fit-codebooks")
    world.run("assign-codes")
    first = codes_of(world)
    assert sorted(r["item_idx"] for r in first.values()) == list(range(50))
    # More vectors in the same file: the frozen codebook codes them, the others stay as they are.
    more = vectors | {f"a-{i}": v for i, v in enumerate(unit_vectors(5, seed=2))}
    del more["sku-0"]
    write_vectors(more)
    version = world.lake.version("semantic_ids")
    entry = world.run("assign-codes")
    assert (entry["facts"]["new"], entry["facts"]["unchanged"], entry["facts"]["removed"]) == (
        5,
        49,
        1,
    )
    after = codes_of(world)
    assert all(after[i] == first[i] for i in vectors if i != "sku-0")
    assert sorted(after[f"a-{i}"]["item_idx"] for i in range(5)) == [50, 51, 52, 53, 54]
    assert len(changes(world, version)) == 6


def test_duplicate_item_ids_are_refused(make_world, tmp_path, write_vectors) -> None:
    path = write_vectors(items(30))
    rows = pq.read_table(path)
    twice = rows.take([*range(30), 4])
    pq.write_table(twice, path)
    world = make_world(external={"tables": {"item_embeddings": path}})
    with pytest.raises(InputError, match=r"expected one row per \(item_id.*i4"):
        world.run("fit-codebooks")


@pytest.mark.parametrize("kinds", [["rq"], ["vq"], ["rq", "vq"]])
def test_own_codebook(make_world, write_vectors, tmp_path, kinds) -> None:
    """The user's own centroids or anchors; the kind that is missing gives an empty code."""
    x = unit_vectors(40)
    parts = {"levels": (x[:9], x[9:14] / 4)} if "rq" in kinds else {}
    if "vq" in kinds:
        parts |= {"anchors": x[20:33], "anchor_items": np.full(13, -1)}
    book = Codebook(**parts)
    path = str(tmp_path / "codebook.parquet")
    rows = book.to_rows().drop(["codebook_id", "encoder_version", "fit", "item_idx"])
    pq.write_table(rows, path)
    tables = {"item_embeddings": write_vectors(items(40)), "codebooks": path}
    world = make_world(external={"tables": tables})
    entry = world.run("assign-codes")
    assert entry["rows_out"] == 40
    found = codes_of(world)
    rq, vq = book.rq(x)[0], book.vq(x, 5)
    for number in range(40):
        assert found[f"i{number}"]["rq"] == rq[number].tolist()
        assert found[f"i{number}"]["vq"] == vq[number].tolist()
    assert found["i0"]["codebook_id"].startswith("user-")
    names = {m["metric"] for m in world.run("quality")["metrics"]}
    assert ("rq_entropy_l1" in names) == ("rq" in kinds)
    assert ("vq_entropy_first" in names) == ("vq" in kinds)


def test_own_codebook_is_immutable_under_its_id(make_world, write_vectors, tmp_path) -> None:
    x = unit_vectors(40)
    path = str(tmp_path / "codebook.parquet")
    tables = {"item_embeddings": write_vectors(items(40)), "codebooks": path}
    world = make_world(external={"tables": tables})
    pq.write_table(Codebook(levels=(x[:9],), given_id="mine").to_rows(), path)
    world.run("assign-codes")
    pq.write_table(Codebook(levels=(x[:8],), given_id="mine").to_rows(), path)
    with pytest.raises(InputError, match="codebook mine has other contents"):
        world.run("assign-codes")
    pq.write_table(Codebook(levels=(x[:8],), given_id="mine-2").to_rows(), path)
    assert world.run("assign-codes")["facts"]["changed"] == 0
    gap = Codebook(levels=(x[:9], x[9:12]), given_id="gap").to_rows()
    pq.write_table(gap.slice(9), path)
    with pytest.raises(InputError, match="rq level 0: missing"):
        world.run("assign-codes")


def test_large_pools_of_anchors_are_searched_by_an_index(make_world) -> None:
    world = make_world()
    vectors = items(80)
    world.vectors(vectors)
    world.run("fit-codebooks")
    entry = world.run("assign-codes", vq_exact_anchors=39, vq_index_probes=8)
    metric = next(m for m in entry["metrics"] if m["metric"] == "vq_index_recall")
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    x = np.stack(list(vectors.values()))
    exact, found = codebook.vq(x, 5), [codes_of(world)[i]["vq"] for i in vectors]
    shares = [len(set(a) & set(b)) / 5 for a, b in zip(exact, found, strict=True)]
    assert metric["n"] == 80
    assert metric["value"] == pytest.approx(np.mean(shares))
    assert 0.5 < metric["value"] < 1
    # Items that have a code keep it; at the threshold itself the pool is searched exactly.
    again = world.run("assign-codes", vq_exact_anchors=40)
    assert again["facts"]["unchanged"] == 80
    assert not any(m["metric"] == "vq_index_recall" for m in again["metrics"])


def test_codebook_is_made_ready_once_a_worker_process(spark) -> None:
    book = spark.sparkContext.broadcast(Codebook(levels=(unit_vectors(9),)))

    def ready(batches):
        import os

        import pyarrow as pa

        for _ in batches:
            there = book.value.__dict__.get("_ready_levels")
            book.value.rq(unit_vectors(2))
            yield pa.RecordBatch.from_pydict({"pid": [os.getpid()], "new": [there is None]})

    seen = [
        (row["pid"], row["new"])
        for _ in range(2)
        for row in spark.range(0, 8, 1, 8).mapInArrow(ready, "pid long, new boolean").collect()
    ]
    assert len(seen) == 16
    assert sum(new for _, new in seen) == len({pid for pid, _ in seen}) < 16


def test_too_few_anchors_for_the_code(make_world, write_vectors, tmp_path) -> None:
    path = str(tmp_path / "codebook.parquet")
    book = Codebook(anchors=unit_vectors(3), anchor_items=np.arange(3), given_id="few")
    pq.write_table(book.to_rows(), path)
    tables = {"item_embeddings": write_vectors(items(40)), "codebooks": path}
    world = make_world(external={"tables": tables})
    with pytest.raises(InputError, match="needs at least as many anchors, codebook few has 3"):
        world.run("assign-codes")


def test_last_level_by_fsq(make_world) -> None:
    world = make_world()
    vectors = items(80)
    world.vectors(vectors)
    levels = [9, 5, 8]
    fit = world.run("fit-codebooks", rq_levels=levels, rq_last="fsq")
    rows = world.table("codebooks")
    assert rows.where("kind = 'fsq'").count() == 4  # three bits, the origin
    codebook = Codebook.from_rows(rows.toArrow())
    assert codebook.last is not None
    assert codebook.sizes == levels
    world.run("assign-codes", rq_levels=levels, rq_last="fsq")
    codes, left = codebook.rq(np.stack(list(vectors.values())))
    after = codes_of(world)
    for number, item in enumerate(vectors):
        assert after[item]["rq"] == codes[number].tolist()
        assert after[item]["residual_error"] == left[number]
    # The same sample was fitted on: the error after each level is that of the whole catalogue.
    of_fit, of_all = (
        {m["metric"]: m["value"] for m in e["metrics"] if "rq_reconstruction_error" in m["metric"]}
        for e in (fit, world.run("quality"))
    )
    assert sorted(of_fit) == [f"rq_reconstruction_error_l{n}" for n in (1, 2, 3)]
    assert of_fit["rq_reconstruction_error_l3"] == pytest.approx(left.mean(), rel=1e-5)
    assert of_fit == pytest.approx(of_all, rel=1e-5)
