"""The collision resolver: against a plain loop, and what later runs may touch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pyspark.sql import functions as F

from qarm.codes.codebook import Codebook
from qarm.codes.resolve import place_overflow, resolve
from qarm.errors import InputError
from qarm.ingest.caching import Keeper
from tests.codes.conftest import unit_vectors

CAPACITY = 2
SETTINGS = {"rq_levels": [3, 6], "vq_anchors": 10, "vq_k": 2, "resolve_capacity": CAPACITY}


def by_loop(rest, centroids, room):
    """What ``place_overflow`` is to do."""
    room, found = list(room), []
    for row in rest.astype(np.float64):
        distances = ((row - centroids.astype(np.float64)) ** 2).sum(axis=1)
        distances[[r == 0 for r in room]] = np.inf
        best = int(distances.argmin())
        if np.isinf(distances[best]):
            found.append(-1)
            continue
        room[best] -= 1
        found.append(best)
    return found


def test_nearest_code_with_room_in_order() -> None:
    rng = np.random.default_rng(0)
    rest, centroids = (rng.standard_normal((n, 5)).astype(np.float32) for n in (40, 9))
    centroids[7] = centroids[2]  # ties go to the lower code
    room = rng.integers(0, 5, 9)
    expected = by_loop(rest, centroids, room)
    assert -1 in expected
    left = room.astype(np.int64)
    assert place_overflow(rest, centroids, left).tolist() == expected
    assert left.sum() == 0
    # Another prefix begins at row 25, where some places are taken; batches go on where they were.
    taken = np.full(40, -1)
    code, first = np.zeros(40, np.int64), np.zeros(40, np.bool_)
    first[25], taken[25], code[25] = True, 3, 4
    room = np.full(9, 3)
    after = [3, 3, 3, 3, 0, 3, 3, 3, 3]
    expected = [*by_loop(rest[:25], centroids, room), -1, *by_loop(rest[26:], centroids, after)]
    for size in (40, 7):
        left = room.astype(np.int64)
        found = [
            code_to
            for start in range(0, 40, size)
            for code_to in place_overflow(
                rest[start : start + size],
                centroids,
                left,
                first=first[start : start + size],
                code=code[start : start + size],
                taken=taken[start : start + size],
                capacity=3,
            )
        ]
        assert found == expected
    with pytest.raises(InputError, match="do not fit together"):
        place_overflow(rest[:, :4], centroids, left)


def reference(codebook, rows, vectors, ties, published):
    """rq_resolved of all items: published ones as they are, others as the rules say."""
    levels = codebook.levels
    found = dict(published)
    held = Counter(tuple(code) for code in found.values())
    new = sorted(
        (i for i in vectors if i not in found),
        key=lambda i: (rows[i]["residual_error"], ties[i], i),
    )
    over = []
    for item in new:
        code = tuple(rows[item]["rq"])
        if held[code] < CAPACITY:
            held[code] += 1
            found[item] = list(code)
        else:
            over.append(item)
    for item in over:
        *prefix, plain = rows[item]["rq"]
        rest = vectors[item]
        for number, code in enumerate(prefix):
            rest = rest - levels[number][code]
        room = [max(CAPACITY - held[(*prefix, c)], 0) for c in range(len(levels[-1]))]
        (to,) = by_loop(rest[None], levels[-1], room)
        found[item] = [*prefix, plain if to < 0 else to]
        held[tuple(found[item])] += 1
    return found, over


def state(world):
    return {r["item_id"]: r for r in world.table("semantic_ids").collect()}


@pytest.mark.spark
def test_published_items_stay_and_newcomers_move(make_world) -> None:
    world = make_world(codes=SETTINGS)
    world.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "5")
    try:
        vectors = {f"i{n}": v for n, v in enumerate(unit_vectors(30))}
        world.vectors(vectors)
        world.run("fit-codebooks")
        codebook = Codebook.from_rows(world.table("codebooks").toArrow())
        everything = vectors | {f"i{n + 30}": v for n, v in enumerate(unit_vectors(12, 4))}
        everything["i5"] = everything["i40"]
        names = world.spark.createDataFrame([(i,) for i in everything], "item_id string")
        ties = {r[0]: r[1] for r in names.select("item_id", F.xxhash64("item_id")).collect()}

        first = world.run("assign-codes", resolve_capacity=0)
        assert all(r["rq_resolved"] is None for r in state(world).values())
        assert "resolver_moved" not in {m["metric"] for m in first["metrics"]}

        # Turned on later: all items are newcomers to it.
        entry = world.run("assign-codes")
        rows = state(world)
        expected, over = reference(codebook, rows, vectors, ties, {})
        assert {i: r["rq_resolved"] for i, r in rows.items()} == expected
        counts = Counter(tuple(code) for code in expected.values())
        crowd = sum(n - CAPACITY for n in counts.values() if n > CAPACITY)
        moved = sum(r["rq"] != r["rq_resolved"] for r in rows.values())
        assert crowd > 0
        assert moved == len(over) - crowd > 0
        ledger = entry["ledgers"][1]
        assert (ledger["rows_in"], ledger["rows_out"]) == (len(over), moved)
        assert ledger["dropped"] == {"no_room_so_plain_code": crowd}
        figures = {
            (m["metric"], m["variant"]): m["value"] for m in entry["metrics"] if m["slice"] == "all"
        }
        assert figures["resolver_moved", "rq_resolved"] == moved
        assert figures["resolver_unresolved", "rq_resolved"] == crowd
        assert figures["duplicate_rate", "rq_resolved"] == pytest.approx(1 - len(counts) / 30)
        shared = sum(n for n in counts.values() if n > 1)
        assert figures["shared_rate", "rq_resolved"] == pytest.approx(shared / 30)
        listed = world.spark.read.parquet(entry["artifacts"]["unresolved"]["uri"]).collect()
        farthest = {
            i
            for code, n in counts.items()
            if n > CAPACITY
            for i in sorted(
                (i for i in rows if tuple(rows[i]["rq_resolved"]) == code),
                key=lambda i: (rows[i]["rq"] == list(code), rows[i]["residual_error"], ties[i]),
            )[CAPACITY:]
        }
        assert {r["item_id"] for r in listed} == farthest <= set(over)

        # i5 changes, i3 leaves, twelve come: nobody else moves, whatever is nearer.
        published = {i: r["rq_resolved"] for i, r in rows.items() if i not in ("i3", "i5")}
        del everything["i3"]
        world.vectors(everything)
        world.run("assign-codes")
        after = state(world)
        expected, over = reference(codebook, after, everything, ties, published)
        assert {i: r["rq_resolved"] for i, r in after.items()} == expected
        assert over
        assert all(after[i] == rows[i] for i in published)

        # Run again, also with another capacity, it writes nothing: all are published.
        version = world.lake.version("semantic_ids")
        world.run("assign-codes", resolve_capacity=1)
        assert world.lake.version("semantic_ids") == version
    finally:
        world.spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")


@pytest.mark.spark
def test_one_level(spark) -> None:
    """The whole catalogue is one prefix; there is room for all."""
    x = unit_vectors(30)
    book = Codebook(levels=(unit_vectors(20, 3),))
    rq, left = book.rq(x)
    ids = [f"i{n}" for n in range(30)]
    coded = [(i, "h", float(e), c.tolist()) for i, e, c in zip(ids, left, rq, strict=True)]
    vectors = [(i, v.tolist()) for i, v in zip(ids, x, strict=True)]
    with Keeper() as keep:
        rows, ledger = resolve(
            spark.createDataFrame(
                coded, "item_id string, content_hash string, residual_error float, rq array<int>"
            ),
            spark.createDataFrame(vectors, "item_id string, vector array<float>"),
            None,
            spark.sparkContext.broadcast(book),
            capacity=CAPACITY,
            encoder="e1",
            keep=keep,
        )
        found = {r["item_id"]: r["rq_resolved"] for r in rows.collect()}
    counts = Counter(tuple(code) for code in found.values())
    plain = Counter(rq[:, 0].tolist())
    assert max(counts.values()) == CAPACITY < max(plain.values())
    assert sum(found[i] != c.tolist() for i, c in zip(ids, rq, strict=True)) == ledger.rows_out
    assert ledger.rows_in == ledger.rows_out == sum(max(n - CAPACITY, 0) for n in plain.values())
