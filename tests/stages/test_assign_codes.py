"""Stage assign-codes on a lake: codes of the catalogue; what later runs touch: test_recode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from qarm.codes.assign import assign_codes, assign_files
from qarm.codes.codebook import Codebook
from qarm.errors import InputError
from qarm.evaluation.reconstruction import reconstruction_metrics
from qarm.evaluation.slices import with_item_slices
from qarm.lake import manifest
from qarm.stages.assign_codes import _encoder, _vq_length
from schemas import codebooks, item_embeddings
from tests.lakes.codes import SMALL, catalogue, touched, unit_vectors

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


def test_too_few_anchors_for_the_code(make_context) -> None:
    context = make_context("assign-codes", codes=SMALL)
    few = Codebook(anchors=unit_vectors(3), anchor_items=np.arange(3), given_id="few")
    with pytest.raises(InputError, match="needs at least as many anchors, codebook few has 3"):
        _vq_length(context, few)
    many = Codebook(anchors=unit_vectors(5), anchor_items=np.arange(5))
    assert _vq_length(context, many) == 5


def kinds_measured(entry) -> list[str]:
    """Kinds of code that stage quality has figures of."""
    names = {m["metric"]: m["variant"] for m in entry["metrics"]}
    return [names[n] for n in ("rq_entropy_l1", "vq_entropy_first") if n in names]


def codes_of(world):
    return {r["item_id"]: r for r in world.table("semantic_ids").collect()}


def test_codes_of_the_catalogue(make_coded) -> None:
    world, vectors = make_coded(), catalogue()
    first = manifest.find(world.lake.root, "assign-codes").result
    assert (first["rows_in"], first["rows_out"], first["dropped"]) == (61, 61, {})
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    x = np.stack(list(vectors.values()))
    rq, left = codebook.rq(x)
    vq = codebook.vq(x, 5)
    found = codes_of(world)
    assert set(found) == set(vectors)
    for number, item in enumerate(vectors):
        row = found[item]
        assert row["rq"] == rq[number].tolist()
        assert row["vq"] == vq[number].tolist()
        assert row["residual_error"] == left[number]
        assert row["item_idx"] == number
        assert row["codebook_id"] == codebook.codebook_id
        assert row["encoder_version"] == "e1"
        assert str(row["assigned_at"]) == "1970-01-01 00:00:00"
        assert row["rq_resolved"] is None
    assert world.run("assign-codes")["status"] == "skipped"


def test_tasks_that_read_the_files_give_the_same_codes(make_coded) -> None:
    world = make_coded(codes=False)
    ours = world.table("item_embeddings")
    other = ours.withColumn("encoder_version", F.lit("e0"))
    ref = world.lake.overwrite(item_embeddings.TABLE, ours.unionByName(other), {})
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    broadcast = world.spark.sparkContext.broadcast(codebook)
    read = assign_files(world.lake, ref, "e1", broadcast, 5).collect()
    handed_over = assign_codes(ours, broadcast, 5).collect()
    assert len(read) == 61
    assert sorted(read) == sorted(handed_over)
    world.publish("embed-catalog", ref)
    entry = world.run("assign-codes")
    assert entry["dropped"] == {"encoder e0": 61}
    assert sorted(codes_of(world)) == sorted(row["item_id"] for row in read)


def test_what_cannot_be_coded_is_refused_and_nothing_is_published(make_coded) -> None:
    """Vectors of another encoder, a vector that is no number, a codebook that was changed."""
    world = make_coded(codes=False)
    world.vectors(items(60), encoder="e2")
    with pytest.raises(InputError, match=r"is of encoder e1, item_embeddings has vectors of \['e2"):
        world.run("assign-codes")
    assert world.lake.version("semantic_ids") == -1
    bad = items(60)
    bad["i5"] = np.full(11, np.nan, np.float32)
    world.vectors(bad)
    with pytest.raises(InputError, match=r"1 of \d+ vectors have NaN or infinity"):
        world.run("assign-codes")
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
    facts = world.run("assign-codes")["facts"]
    assert (facts["new"], facts["unchanged"], facts["removed"]) == (5, 49, 1)
    after = codes_of(world)
    assert all(after[i] == first[i] for i in vectors if i != "sku-0")
    assert sorted(after[f"a-{i}"]["item_idx"] for i in range(5)) == [50, 51, 52, 53, 54]
    assert len(touched(world, version)) == 6


def test_own_codebooks(make_world, write_vectors, tmp_path) -> None:
    """Centroids or anchors alone give empty codes of the other kind; an id stands for its contents.

    (Both kinds, and codebooks that are refused for what they hold: test_bad_input.)
    """
    x = unit_vectors(40)
    path = str(tmp_path / "codebook.parquet")
    vectors = write_vectors(items(40), encoder_version=["e1"] * 40)
    tables = {"item_embeddings": vectors, "codebooks": path}
    world = make_world(external={"tables": tables})

    def check(entry: dict, book: Codebook) -> str:
        assert entry["rows_out"] == 40
        found = codes_of(world)
        assert {row["encoder_version"] for row in found.values()} == {"e1"}
        rq, vq = book.rq(x)[0], book.vq(x, 5)
        for number in range(40):
            assert found[f"i{number}"]["rq"] == rq[number].tolist()
            assert found[f"i{number}"]["vq"] == vq[number].tolist()
        return found["i0"]["codebook_id"]

    book = Codebook(levels=(x[:9], x[9:14] / 4), given_id="mine")
    pq.write_table(book.to_rows(), path)
    assert check(world.run("assign-codes"), book) == "mine"
    assert kinds_measured(world.run("quality")) == ["rq"]
    pq.write_table(Codebook(levels=(x[:8],), given_id="mine").to_rows(), path)
    with pytest.raises(InputError, match="codebook mine has other contents"):
        world.run("assign-codes")
    # Without an id it gets one.
    book = Codebook(anchors=x[20:33], anchor_items=np.full(13, -1))
    rows = book.to_rows().drop(["codebook_id", "encoder_version", "fit", "item_idx"])
    pq.write_table(rows, path)
    entry = world.run("assign-codes")
    assert entry["facts"]["changed"] == 0
    assert check(entry, book).startswith("user-")
    assert kinds_measured(world.run("quality")) == ["vq"]


def test_large_pools_of_anchors_are_searched_by_an_index(make_coded) -> None:
    world, vectors = make_coded(codes=False), catalogue()
    entry = world.run("assign-codes", vq_exact_anchors=39, vq_index_probes=8)
    metric = next(m for m in entry["metrics"] if m["metric"] == "vq_index_recall")
    codebook = Codebook.from_rows(world.table("codebooks").toArrow())
    x = np.stack(list(vectors.values()))
    codes = codes_of(world)
    exact, found = codebook.vq(x, 5), [codes[i]["vq"] for i in vectors]
    shares = [len(set(a) & set(b)) / 5 for a, b in zip(exact, found, strict=True)]
    assert metric["n"] == 61
    assert metric["value"] == pytest.approx(np.mean(shares))
    assert 0.5 < metric["value"] < 1
    # Items that have a code keep it; at the threshold itself the pool is searched exactly.
    again = world.run("assign-codes", vq_exact_anchors=40)
    assert again["facts"]["unchanged"] == 61
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
    ids = with_item_slices(world.table("semantic_ids").select("item_idx", "rq"), None, ["train"])
    broadcast = world.spark.sparkContext.broadcast(codebook)
    measured = reconstruction_metrics(ids, world.table("item_embeddings"), broadcast, 1.0)
    name = "rq_reconstruction_error"
    of_fit = {m["metric"]: m["value"] for m in fit["metrics"] if name in m["metric"]}
    of_all = {m.metric: m.value for m in measured if name in m.metric}
    assert sorted(of_fit) == [f"{name}_l{n}" for n in (1, 2, 3)]
    assert of_fit[f"{name}_l3"] == pytest.approx(left.mean(), rel=1e-5)
    assert of_fit == pytest.approx(of_all, rel=1e-5)
