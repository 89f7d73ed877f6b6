"""Stage fit-codebooks on a lake."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.codebook import Codebook
from qarm.errors import InputError, MissingStageError
from qarm.lake import files, manifest
from qarm.pipeline.context import open_context
from qarm.pipeline.export_codes import measure_anchor_pools
from schemas import item_embeddings
from tests.lakes.codes import catalogue, unit_vectors
from tests.lakes.copies import drop_column

pytestmark = pytest.mark.spark


def items(n, seed=0, first=0):
    return {f"i{first + i}": v for i, v in enumerate(unit_vectors(n, seed))}


def published(lake) -> Codebook:
    found = manifest.find(lake.root, "fit-codebooks").artifacts["codebook"]
    return Codebook.from_bytes(files.open_file(found["uri"]).read())


def test_sees_only_items_of_the_training_part(make_world, coded_lake) -> None:
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
    codebook = published(world.lake)
    assert codebook.sizes == [13, 7]
    # Anchors are the items with most training events, most first; test events do not count.
    assert codebook.anchor_items.tolist() == list(range(40))
    np.testing.assert_array_equal(codebook.anchors, unit_vectors(60)[:40])

    # The levels are those of a catalogue without the later items and those of no event.
    for level, without in zip(codebook.levels, published(coded_lake).levels, strict=True):
        np.testing.assert_array_equal(level, without)


def test_same_inputs_same_codebook_and_older_ones_stay(make_coded) -> None:
    world = make_coded()
    first = published(world.lake)
    version = world.lake.version("codebooks")
    assert world.run("fit-codebooks")["status"] == "skipped"
    from_table = Codebook.from_rows(world.table("codebooks").toArrow())
    assert from_table.codebook_id == first.codebook_id == first.content_hash
    np.testing.assert_array_equal(from_table.anchors, first.anchors)
    # An earlier release did not name the items of anchors.
    drop_column(world.lake, "codebooks", "item_idx")
    other = world.run("fit-codebooks", seed=1)
    assert other["artifacts"]["codebook"]["version"] != first.codebook_id
    assert world.lake.version("codebooks") > version
    version = world.lake.version("codebooks")
    third = world.run("fit-codebooks")  # as the first: its rows are in the table already
    assert third["status"] == "done"
    assert third["artifacts"]["codebook"]["version"] == first.codebook_id
    assert world.lake.version("codebooks") == version
    rows = world.table("codebooks").groupBy("codebook_id").count().collect()
    assert sorted(r["count"] for r in rows) == [60, 60]


def test_a_sample_by_hash(make_coded) -> None:
    world = make_coded()
    entry = world.run("fit-codebooks", fit_rows=40)
    assert entry["rows_out"] == 40
    assert entry["dropped"]["beyond_fit_rows"] == 20
    assert entry["facts"]["vq_pool"] == "random"  # there are no events
    # The sample is a matter of item and seed, not of how the table lies in files.
    first = published(world.lake)
    world.vectors(dict(reversed(catalogue().items())), mark="other files")
    assert world.run("fit-codebooks", fit_rows=40)["status"] == "done"
    assert published(world.lake).codebook_id == first.codebook_id


def test_k_centre_pool(make_coded) -> None:
    """The item of smallest hash first, then the farthest from it."""
    world = make_coded()
    world.run("fit-codebooks", vq_pool="k_centre")
    book = published(world.lake)
    every = unit_vectors(60)
    assert (book.fit["vq_pool"], book.fit["rows"]) == ("k_centre", 60)
    far = ((every - book.anchors[0].astype(np.float64)) ** 2).sum(1).argmax()
    np.testing.assert_array_equal(book.anchors[1], every[far])
    assert book.anchor_items[1] == far


def test_compares_pools(make_coded) -> None:
    world = make_coded()
    vectors = items(60)

    def compare():
        return measure_anchor_pools(open_context(world.config, world.spark, "anchor-pools"))

    assert set(compare()) == {"random", "k_centre"}
    world.log(vectors, {i: 1 + int(i[1:]) % 50 for i in vectors})
    found = compare()
    assert set(found) == {"popular", "random", "k_centre"}
    assert {c.anchors for c in found.values()} == {40}
    assert found["k_centre"].farthest < found["random"].farthest
    assert found["popular"].nearest != found["random"].nearest


def test_metrics_are_those_of_the_rows_fitted_on(make_coded) -> None:
    world = make_coded()
    entry = manifest.find(world.lake.root, "fit-codebooks").result
    assert (entry["rows_out"], entry["dropped"]["zero_vector"]) == (60, 1)
    figures = {m["metric"]: m["value"] for m in entry["metrics"]}
    _, left = published(world.lake).rq(unit_vectors(60))
    assert figures["rq_reconstruction_error_l2"] == pytest.approx(left.mean(), rel=1e-5)
    assert figures["rq_relative_error_l2"] == pytest.approx(left.mean(), rel=1e-5)
    assert figures["rq_reconstruction_error_l1"] > figures["rq_reconstruction_error_l2"]


def test_refuses_what_it_cannot_fit(make_world, make_coded) -> None:
    with pytest.raises(MissingStageError, match="item_embeddings"):
        make_world().run("fit-codebooks")
    world = make_coded()
    with pytest.raises(InputError, match="need >= 64 points, got 60"):
        world.run("fit-codebooks", rq_levels=[64])
    with pytest.raises(InputError, match="only 60 items are"):
        world.run("fit-codebooks", vq_anchors=200, vq_k=61)
    entry = world.run("fit-codebooks", vq_anchors=200)  # cut to the items there are
    assert entry["facts"]["vq_anchors"] == 60
    world.vectors({})
    with pytest.raises(InputError, match="item_embeddings has no rows"):
        world.run("fit-codebooks")
    two = world.frame(items(12), "a").unionByName(world.frame(items(8, first=12), "b"))
    world.publish("embed-catalog", world.lake.overwrite(item_embeddings.TABLE, two, {}))
    with pytest.raises(InputError, match=r"vectors of 2 encoders: .'a': 12"):
        world.run("fit-codebooks")
    assert manifest.find(world.lake.root, "fit-codebooks").run_id == entry["run_id"]
