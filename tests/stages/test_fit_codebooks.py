"""Stage fit-codebooks on a lake."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.codebook import Codebook
from qarm.errors import InputError, MissingStageError
from qarm.lake import files, manifest
from qarm.pipeline.context import open_context
from qarm.pipeline.export_codes import measure_anchor_pools
from tests.lakes.codes import unit_vectors

pytestmark = pytest.mark.spark


def items(n, seed=0, first=0):
    return {f"i{first + i}": v for i, v in enumerate(unit_vectors(n, seed))}


def published(world) -> Codebook:
    found = manifest.find(world.lake.root, "fit-codebooks").artifacts["codebook"]
    return Codebook.from_bytes(files.open_file(found["uri"]).read())


def test_sees_only_items_of_the_training_part(make_world) -> None:
    world = make_world()
    known, later, never = items(60), items(30, 1, first=60), items(10, 2, first=90)
    empty = {"i100": np.zeros(11, np.float32)}
    world.vectors(known | later | never | empty)
    # Items of the test part alone are later, also where another item's training event is later
    # still, as under a split by user.
    events = {i: 60 - int(i[1:]) for i in known} | dict.fromkeys(later, 0) | {"i100": 65}
    world.log(known | later | never | empty, events)
    entry = world.run("fit-codebooks")
    assert (entry["rows_in"], entry["rows_out"]) == (101, 60)
    assert entry["dropped"] == {
        "after_train_end": 30,
        "no_event": 10,
        "zero_vector": 1,
        "beyond_fit_rows": 0,
    }
    codebook = published(world)
    assert codebook.sizes == [13, 7]
    # Anchors are the items with most training events, most first; test events do not count.
    assert codebook.anchor_items.tolist() == list(range(40))
    np.testing.assert_array_equal(codebook.anchors, unit_vectors(60)[:40])

    again = make_world()
    world.vectors(known | items(30, 7, first=60) | never | empty, mark="other")
    again.run("fit-codebooks")
    for before, after in zip(codebook.levels, published(again).levels, strict=True):
        np.testing.assert_array_equal(before, after)


def test_same_inputs_same_codebook_and_older_ones_stay(make_world) -> None:
    world = make_world()
    world.vectors(items(50))
    first = world.run("fit-codebooks")
    version = world.lake.version("codebooks")
    assert world.run("fit-codebooks")["status"] == "skipped"
    from_table, artifact = Codebook.from_rows(world.table("codebooks").toArrow()), published(world)
    assert from_table.codebook_id == artifact.codebook_id == artifact.content_hash
    np.testing.assert_array_equal(from_table.anchors, artifact.anchors)
    other = world.run("fit-codebooks", seed=1)
    assert other["artifacts"]["codebook"]["version"] != first["artifacts"]["codebook"]["version"]
    assert world.lake.version("codebooks") > version
    version = world.lake.version("codebooks")
    third = world.run("fit-codebooks")  # as the first: its rows are in the table already
    assert third["status"] == "done"
    assert third["artifacts"]["codebook"]["version"] == first["artifacts"]["codebook"]["version"]
    assert world.lake.version("codebooks") == version
    rows = world.table("codebooks").groupBy("codebook_id").count().collect()
    assert sorted(r["count"] for r in rows) == [60, 60]


def test_a_sample_by_hash(make_world) -> None:
    world = make_world()
    vectors = items(300)
    world.vectors(vectors)
    entry = world.run("fit-codebooks", fit_rows=80)
    assert entry["rows_out"] == 80
    assert entry["dropped"]["beyond_fit_rows"] == 220
    assert entry["facts"]["vq_pool"] == "random"  # there are no events
    # The sample is a matter of item and seed, not of how the table lies in files.
    first = published(world)
    world.vectors(dict(reversed(vectors.items())), mark="other files")
    world.run("fit-codebooks", fit_rows=80)
    assert published(world).codebook_id == first.codebook_id


def test_k_centre_pool(make_world) -> None:
    """The item of smallest hash first, then the farthest from it."""
    world = make_world()
    x = items(300)
    world.vectors(x)
    world.run("fit-codebooks", vq_pool="k_centre")
    book = published(world)
    every = np.stack(list(x.values()))
    assert (book.fit["vq_pool"], book.fit["rows"]) == ("k_centre", 300)
    far = ((every - book.anchors[0].astype(np.float64)) ** 2).sum(1).argmax()
    np.testing.assert_array_equal(book.anchors[1], every[far])
    assert book.anchor_items[1] == far


def test_compares_pools(make_world) -> None:
    world = make_world()
    vectors = items(120)
    world.vectors(vectors)

    def compare():
        return measure_anchor_pools(open_context(world.config, world.spark, "anchor-pools"))

    assert set(compare()) == {"random", "k_centre"}
    world.log(vectors, {i: 1 + int(i[1:]) % 50 for i in vectors})
    found = compare()
    assert set(found) == {"popular", "random", "k_centre"}
    assert {c.anchors for c in found.values()} == {40}
    assert found["k_centre"].farthest < found["random"].farthest
    assert found["popular"].nearest != found["random"].nearest


def test_metrics_are_those_of_the_rows_fitted_on(make_world) -> None:
    world = make_world()
    vectors = items(90)
    world.vectors(vectors)
    entry = world.run("fit-codebooks")
    figures = {m["metric"]: m["value"] for m in entry["metrics"]}
    x = np.stack(list(vectors.values()))
    _, left = published(world).rq(x)
    assert figures["rq_reconstruction_error_l2"] == pytest.approx(left.mean(), rel=1e-5)
    assert figures["rq_relative_error_l2"] == pytest.approx(left.mean(), rel=1e-5)
    assert figures["rq_reconstruction_error_l1"] > figures["rq_reconstruction_error_l2"]


def test_refuses_what_it_cannot_fit(make_world) -> None:
    world = make_world()
    with pytest.raises(MissingStageError, match="item_embeddings"):
        world.run("fit-codebooks")
    world.vectors(items(50))
    with pytest.raises(InputError, match="need >= 64 points, got 50"):
        world.run("fit-codebooks", rq_levels=[64])
    with pytest.raises(InputError, match="only 50 items are"):
        world.run("fit-codebooks", vq_anchors=200, vq_k=51)
    entry = world.run("fit-codebooks", vq_anchors=200)  # cut to the items there are
    assert entry["facts"]["vq_anchors"] == 50
    world.vectors({})
    with pytest.raises(InputError, match="item_embeddings has no rows"):
        world.run("fit-codebooks")
    assert manifest.find(world.lake.root, "fit-codebooks").run_id == entry["run_id"]


def test_one_encoder_at_a_time(make_world, write_vectors) -> None:
    path = write_vectors(items(20), encoder_version=["a"] * 12 + ["b"] * 8)
    world = make_world(external={"tables": {"item_embeddings": path}})
    with pytest.raises(InputError, match=r"vectors of 2 encoders: .'a': 12"):
        world.run("fit-codebooks")
