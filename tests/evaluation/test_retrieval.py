"""Ranks of test pairs against brute force, over tiles, ties and missing vectors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from qarm.errors import InputError
from qarm.evaluation import retrieval, vectors
from qarm.evaluation.vectors import CONCAT, Spaces

ITEMS = 60


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Items with aligned vectors (two of them equal), text for most, image for some."""
    rng = np.random.default_rng(0)
    item = rng.permutation(ITEMS).astype(np.int64) * 3  # index numbers with gaps
    aligned = rng.normal(size=(ITEMS, 8)).astype(np.float32)
    aligned[5] = aligned[6]
    text = [None if i % 7 == 0 else rng.normal(2, 1, 4).tolist() for i in range(ITEMS)]
    image = [rng.normal(-1, 1, 3).tolist() if i % 3 == 0 else None for i in range(ITEMS)]
    floats = pa.list_(pa.float32())
    return pa.table(
        {
            "item_idx": item,
            "in_training": np.arange(ITEMS) < 40,
            "aligned": pa.array(aligned.tolist(), floats),
            "raw:text": pa.array(text, floats),
            "raw:image": pa.array(image, floats),
        }
    )


def reference(table: pa.Table) -> dict[str, dict[int, np.ndarray]]:
    """Space -> item -> unit vector, by loops."""
    found: dict[str, dict[int, np.ndarray]] = {}
    items, training = table["item_idx"].to_pylist(), table["in_training"].to_pylist()
    for name in ("aligned", "raw:text", "raw:image"):
        rows = table[name].to_pylist()
        centre = 0
        if name != "aligned":
            centre = np.mean([r for r, t in zip(rows, training, strict=True) if t and r], axis=0)
        centred = {i: np.array(r) - centre for i, r in zip(items, rows, strict=True) if r}
        found[name] = {i: v / np.linalg.norm(v) for i, v in centred.items()}
    joined = {}
    for i in items:
        parts = [found["raw:text"].get(i), found["raw:image"].get(i)]
        if any(p is not None for p in parts):
            both = np.concatenate(
                [p if p is not None else np.zeros(d) for p, d in zip(parts, (4, 3), strict=True)]
            )
            joined[i] = both / np.linalg.norm(both)
    return {**found, CONCAT: joined}


@pytest.fixture(scope="module")
def pairs(table) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    items = table["item_idx"].to_numpy()
    trigger, target = rng.choice(items, 150), rng.choice(items, 150)
    keep = trigger != target
    return trigger[keep], target[keep]


def test_spaces_are_centred_on_training_and_normalised(spark, table) -> None:
    spaces = vectors.fit_spaces(spark.createDataFrame(table))
    assert spaces.names == ["aligned", "raw:text", "raw:image", CONCAT]
    expected = reference(table)
    for name, space in spaces.of(table).items():
        for row, item in enumerate(table["item_idx"].to_pylist()):
            assert space.there[row] == (item in expected[name])
            if space.there[row]:
                np.testing.assert_allclose(space.matrix[row], expected[name][item], atol=1e-5)


def _brute_force(expected, trigger, target):
    """(found, above, tied) of each pair."""
    rows = []
    for a, b in zip(trigger, target, strict=True):
        if a not in expected or b not in expected:
            rows.append((False, 0, 0))
            continue
        own = expected[a] @ expected[b]
        others = np.array([expected[a] @ v for i, v in expected.items() if i not in (a, b)])
        tied = int((np.abs(others - own) <= 1e-6).sum())
        rows.append((True, int((others > own + 1e-6).sum()), tied))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def test_ranks_equal_brute_force(spark, table, pairs) -> None:
    catalogue = spark.createDataFrame(table).repartition(3)
    ranks = retrieval.rank_targets(*pairs, catalogue, vectors.fit_spaces(catalogue))
    for name, expected in reference(table).items():
        found, above, tied = _brute_force(expected, *pairs)
        np.testing.assert_array_equal(ranks[name].ranked, found)
        np.testing.assert_array_equal(ranks[name].above[found], above[found])
        np.testing.assert_array_equal(ranks[name].tied[found], tied[found])
    equal = set(table["item_idx"].to_numpy()[[5, 6]])
    twin = np.isin(pairs[1], list(equal)) & ~np.isin(pairs[0], list(equal))
    assert twin.any()
    assert (ranks["aligned"].tied[twin] == 1).all()


@pytest.mark.parametrize("tile", [1 << 23, 7])
def test_small_tiles_count_the_same(table, pairs, tile, monkeypatch) -> None:
    """In this process, so that the small tile takes effect."""
    monkeypatch.setattr(retrieval, "TILE", tile)
    spaces = Spaces({"aligned": np.zeros(8, np.float32)})
    known = table.sort_by("item_idx")
    queries, _ = retrieval._queries(*pairs, known, spaces)
    out = pa.Table.from_batches(retrieval.count_above(table.to_batches(17), spaces, queries))
    above = np.zeros(len(pairs[0]), int)
    above[out["pair"].to_numpy()] = out["above"].to_numpy()
    expected = _brute_force(reference(table)["aligned"], *pairs)
    np.testing.assert_array_equal(above, expected[1])


def test_ties_share_the_last_places_and_missing_vectors_are_misses() -> None:
    ranks = retrieval.Ranks(
        ranked=np.array([True, True, True, True, False]),
        above=np.array([0, 9, 10, 8, 0]),
        tied=np.array([0, 0, 0, 3, 0]),
    )
    assert ranks.hits(10).tolist() == [1.0, 1.0, 0.0, 0.5, 0.0]


def test_vectors_of_other_length_are_refused() -> None:
    column = pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32()))
    with pytest.raises(InputError, match="raw:text must all have 2 numbers; seen 3"):
        vectors.to_matrix(column, 2, "raw:text")


def test_zero_vector_is_none() -> None:
    column = pa.array([[0.0, 0.0], [3.0, 4.0], None], pa.list_(pa.float32()))
    space = Spaces({"aligned": np.zeros(2, np.float32)}).of(pa.table({"aligned": column}))
    assert space["aligned"].there.tolist() == [False, True, False]
    np.testing.assert_allclose(space["aligned"].matrix[1], [0.6, 0.8])
