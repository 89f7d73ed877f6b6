"""Implicit ALS: behaviour decides the neighbours; runs agree; ids must fit."""

from __future__ import annotations

import numpy as np
import pytest

from qarm.config.pairs import IdVectors
from qarm.errors import InputError
from qarm.pairs.id_vectors import train_id_vectors

SCHEMA = "user_idx bigint, item_idx bigint, weight double"
SMALL = IdVectors(rank=4, iterations=2)


def test_items_of_the_same_users_are_near_and_runs_agree(spark):
    rows = [(u, i, 1.0) for u in range(24) for i in range(6) if i % 2 == u % 2]
    runs = []
    for partitions in (1, 4):
        events = spark.createDataFrame(rows, SCHEMA).repartition(partitions)
        vectors = train_id_vectors(events, SMALL, seed=3)
        assert dict(vectors.dtypes) == {"item_idx": "bigint", "vector": "array<float>"}
        runs.append({r["item_idx"]: r["vector"] for r in vectors.collect()})
    assert runs[0] == runs[1]
    unit = np.array([runs[0][i] for i in range(6)])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[0, 2] > 0.9 > 0.3 > cosine[0, 1]


def test_no_events_and_too_large_ids_are_named(spark):
    with pytest.raises(InputError, match="no positive events"):
        train_id_vectors(spark.createDataFrame([], SCHEMA), SMALL, seed=0)
    with pytest.raises(InputError, match="item_idx goes up to 2147483648"):
        train_id_vectors(spark.createDataFrame([(0, 2**31, 1.0)], SCHEMA), SMALL, seed=0)
