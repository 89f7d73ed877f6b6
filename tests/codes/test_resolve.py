"""The collision resolver: against a plain loop, and what later runs may touch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pyspark.sql import functions as F

from qarm.codes.codebook import Codebook
from qarm.codes.resolve import place_overflow, resolve
from qarm.errors import InputError
from qarm.lake import manifest
from qarm.lake.caching import Keeper
from tests.lakes.codes import catalogue, unit_vectors

CAPACITY = 2


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


def coded_frame(spark, codebook, vectors):
    """What the resolver is handed, and its rows by item."""
    rq, left = codebook.rq(np.stack(list(vectors.values())))
    rows = [
        (item, v.tobytes().hex()[:16], float(e), code.tolist())
        for (item, v), e, code in zip(vectors.items(), left, rq, strict=True)
    ]
    df = spark.createDataFrame(
        rows, "item_id string, content_hash string, residual_error float, rq array<int>"
    )
    ties = {r[0]: r[1] for r in df.select("item_id", F.xxhash64("item_id")).collect()}
    return df, {i: {"residual_error": e, "rq": code} for i, _, e, code in rows}, ties


def run_resolver(spark, codebook, vectors, coded, published=None):
    wide = [(i, v.tolist()) for i, v in vectors.items()]
    with Keeper() as keep:
        rows, ledger = resolve(
            coded,
            spark.createDataFrame(wide, "item_id string, vector array<float>"),
            published,
            spark.sparkContext.broadcast(codebook),
            capacity=CAPACITY,
            encoder="e1",
            keep=keep,
        )
        return {r["item_id"]: r["rq_resolved"] for r in rows.collect()}, ledger


@pytest.mark.spark
@pytest.mark.parametrize("sizes", [[3, 5], [20]])
def test_first_run_and_later_ones(spark, sizes) -> None:
    """Two levels; and one, where the whole catalogue is one prefix."""
    book = Codebook(levels=tuple(unit_vectors(k, 3 + n) / 2**n for n, k in enumerate(sizes)))
    vectors = {f"i{n}": v for n, v in enumerate(unit_vectors(30))}
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "5")
    try:
        coded, rows, ties = coded_frame(spark, book, vectors)
        found, ledger = run_resolver(spark, book, vectors, coded)
        expected, over = reference(book, rows, vectors, ties, {})
        assert found == expected
        crowd = sum(max(n - CAPACITY, 0) for n in Counter(map(tuple, found.values())).values())
        moved = sum(found[i] != rows[i]["rq"] for i in found)
        assert (ledger.rows_in, ledger.rows_out) == (len(over), moved)
        assert ledger.dropped == {"no_room_so_plain_code": crowd}
        assert moved == len(over) - crowd > 0
        assert (crowd > 0) == (len(sizes) == 2)

        # i5 has other content, twelve come, i7 is coded again with the content that it had.
        published = coded.join(
            spark.createDataFrame(list(found.items()), "item_id string, rq_resolved array<int>"),
            "item_id",
        ).withColumn("encoder_version", F.lit("e1"))
        later = {f"i{n + 30}": v for n, v in enumerate(unit_vectors(12, 4))}
        later |= {"i5": later["i40"], "i7": vectors["i7"]}
        coded, rows, ties = coded_frame(spark, book, later)
        before = {i: code for i, code in found.items() if i != "i5"}
        expected, over = reference(book, rows, later, ties, before)
        found, ledger = run_resolver(spark, book, later, coded, published)
        assert found == {i: expected[i] for i in later}
        assert found["i7"] == before["i7"]
        assert ledger.rows_in == len(over) > 0
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")


def state(world):
    return {r["item_id"]: r for r in world.table("semantic_ids").collect()}


@pytest.mark.spark
def test_stage(make_coded) -> None:
    world, vectors, capacity = make_coded(), catalogue(), 1
    first = manifest.find(world.lake.root, "assign-codes").result
    assert all(r["rq_resolved"] is None for r in state(world).values())
    assert "resolver_moved" not in {m["metric"] for m in first["metrics"]}

    # Turned on later: all items are newcomers to it.
    entry = world.run("assign-codes", resolve_capacity=capacity)
    rows = state(world)
    counts = Counter(tuple(r["rq_resolved"]) for r in rows.values())
    moved = sum(r["rq"] != r["rq_resolved"] for r in rows.values())
    listed = world.spark.read.parquet(entry["artifacts"]["unresolved"]["uri"]).collect()
    crowd = sum(max(n - capacity, 0) for n in counts.values())
    assert len(listed) == crowd > 0
    assert entry["ledgers"][1]["dropped"] == {"no_room_so_plain_code": crowd}
    for row in listed:
        assert rows[row["item_id"]]["rq"] == rows[row["item_id"]]["rq_resolved"] == row["code"]
        assert counts[tuple(row["code"])] == row["items"] > capacity
        same = [r for r in rows.values() if r["rq_resolved"] == row["code"]]
        assert sum(r["residual_error"] < row["distance"] for r in same) >= capacity
    figures = {
        m["metric"]: m["value"]
        for m in entry["metrics"]
        if m["slice"] == "all" and m["variant"] == "rq_resolved"
    }
    shared = sum(n for n in counts.values() if n > 1)
    assert figures["resolver_moved"] == moved > 0
    assert figures["resolver_unresolved"] == crowd
    assert figures["duplicate_rate"] == pytest.approx(1 - len(counts) / 61)
    assert figures["shared_rate"] == pytest.approx(shared / 61)

    # One leaves, three come, and the capacity is another: who is published stays where it is.
    del vectors["i3"]
    world.vectors(vectors | {f"i{n + 61}": v for n, v in enumerate(unit_vectors(3, 4))})
    entry = world.run("assign-codes", resolve_capacity=2)
    after = state(world)
    assert all(after[i] == rows[i] for i in vectors)
    assert len(after) == 63
    assert all(after[f"i{n}"]["rq_resolved"] for n in (61, 62, 63))
