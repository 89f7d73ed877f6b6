"""Which items codebooks are fitted on, and samples of them."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.codes.population import (
    count_by_encoder,
    count_events,
    one_encoder,
    usable_vectors,
    with_seen,
)
from qarm.codes.sampling import sample_by_hash
from qarm.errors import InputError
from qarm.pipeline.code_inputs import training_events, vectors_to_fit_on
from qarm.pipeline.context import open_context
from tests.lakes.codes import unit_vectors

pytestmark = pytest.mark.spark

EVENTS = [(0, "train"), (0, "test"), (1, "test"), (2, "mine"), (2, "train"), (4, "train")]
PARTS = ["mine", "train"]


@pytest.fixture(scope="module")
def splits(spark):
    return spark.createDataFrame(EVENTS, "item_idx bigint, part string")


@pytest.fixture(scope="module")
def embeddings(spark):
    rows = [(f"i{n}", n, "e1", [float(n != 4), 1.0 * (n != 4)]) for n in range(5)]
    schema = "item_id string, item_idx bigint, encoder_version string, vector array<float>"
    return spark.createDataFrame(rows, schema)


def test_seen(embeddings, splits) -> None:
    seen = {r["item_idx"]: r["seen"] for r in with_seen(embeddings, splits, PARTS).collect()}
    assert seen == {0: "known", 1: "later", 2: "known", 3: "never", 4: "known"}
    without_log = with_seen(embeddings, None, PARTS).select("seen").distinct().collect()
    assert [r["seen"] for r in without_log] == ["known"]


def test_usable_vectors_and_why_others_are_not(embeddings, splits) -> None:
    usable, counts = usable_vectors(embeddings, splits, PARTS)
    assert counts == {"fit": 2, "after_train_end": 1, "no_event": 1, "zero_vector": 1}
    assert sorted(r["item_idx"] for r in usable.collect()) == [0, 2]
    events = {r["item_idx"]: r["events"] for r in count_events(splits, PARTS).collect()}
    assert events == {0: 1, 2: 2, 4: 1}


def test_inputs_from_a_lake(make_world) -> None:
    world = make_world()
    vectors = {f"i{n}": v for n, v in enumerate(unit_vectors(6))}
    world.vectors(vectors)
    context = open_context(world.config, world.spark, "test")
    assert training_events(context) is None
    assert vectors_to_fit_on(context)[1:] == ({"fit": 6}, "e1")
    world.log(vectors, {"i0": 2, "i3": 66})
    context = open_context(world.config, world.spark, "test")
    events = {r["item_idx"]: r["events"] for r in training_events(context).collect()}
    assert events == {0: 2, 3: 66}
    assert vectors_to_fit_on(context)[1] == {"fit": 2, "no_event": 4}


def test_encoders(embeddings) -> None:
    counts = count_by_encoder(embeddings)
    assert counts == {"e1": 5}
    assert one_encoder(counts) == "e1"
    with pytest.raises(InputError, match="vectors of 2 encoders"):
        one_encoder({"e1": 5, "e2": 1})
    with pytest.raises(InputError, match="has no rows"):
        count_by_encoder(embeddings.limit(0))


def test_a_sample_depends_on_items_and_seed_alone(spark) -> None:
    rows = [(f"i{n}", n, [float(n), 1.0]) for n in range(200)]
    schema = "item_id string, item_idx bigint, vector array<float>"
    first = sample_by_hash(spark.createDataFrame(rows, schema), 200, 20, 0)
    turned = spark.createDataFrame(rows[::-1], schema).repartition(3)
    again = sample_by_hash(turned, 200, 20, 0)
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1][:, 0].tolist() == first[0].tolist()
    assert len(first[0]) == 20
    assert set(first[0]) != set(sample_by_hash(turned, 200, 20, 1)[0])
    with pytest.raises(InputError, match="no item has a vector"):
        sample_by_hash(turned.limit(0), 0, 20, 0)
