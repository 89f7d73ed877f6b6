"""Collision resolver: at most ``capacity`` items per code; others move to the nearest free code.

Codes of one prefix (c1, ..., c_{L-1}) share what is left of a vector before the last level, so the
next best code of an item is the nearest last-level centroid of the same prefix: only c_L changes.
Rules:

* An item whose ``rq_resolved`` is published under this codebook, with the same content, keeps it,
  whatever comes later and whatever the capacity is then: its place is taken before others choose.
* Newcomers that find room in their own code stay there. First come those nearest to it (the
  published ``residual_error``), ties by hash(item_id), then by item_id.
* The rest of a prefix, in that order, take the nearest last-level code that has room left.
* Where the prefix is full, items keep their plain code and are listed as unresolved.

Only prefixes with an overflowing code are processed. Ranks are windows over narrow rows, and only
vectors of items that will move are shuffled: per prefix at most ``capacity`` times the size of the
last level. Workers receive them sorted by prefix, so that a worker holds one batch and one number
per last-level code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.code_counts import Collisions
from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.errors import InputError
from qarm.kernels.nearest import Floats, Ints
from qarm.kernels.placement import place_rows
from qarm.lake.caching import Keeper
from qarm.ledger import Ledger, Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast
    from pyspark.sql import Column, DataFrame


def place_overflow(
    rest: Floats,
    centroids: Floats,
    room: NDArray[np.int64],
    *,
    first: NDArray[np.bool_] | None = None,
    code: NDArray[np.integer[Any]] | None = None,
    taken: NDArray[np.integer[Any]] | None = None,
    capacity: int = 0,
) -> Ints:
    """Give each row, in order, the nearest centroid that has room: float64, ties to the lower code.

    Args:
        rest: (n, d) what is left before the last level.
        centroids: (K, d) of the last level.
        room: (K,) places left in each code; changed in place, so that the next call continues.
        first: (n,) rows at which another prefix begins: all codes have ``capacity`` places again.
        code: (n,) see ``taken``.
        taken: (n,) where not negative, the row is no item: this many places of ``code`` are taken.
        capacity: maximum number of items per code.

    Returns:
        (n,) codes; -1: no room, or no item.

    Raises:
        InputError: dimensions differ.
    """
    n = len(rest)
    if rest.ndim != 2 or rest.shape[1] != centroids.shape[1] or len(room) != len(centroids):
        raise InputError(
            f"collision resolver: vectors {rest.shape}, centroids {centroids.shape} and room "
            f"{room.shape} do not fit together"
        )
    out = np.full(n, -1, np.int32)
    place_rows(
        rest,
        centroids,
        room,
        np.zeros(n, np.bool_) if first is None else first,
        np.zeros(n, np.int64) if code is None else code.astype(np.int64),
        np.full(n, -1, np.int64) if taken is None else taken.astype(np.int64),
        capacity,
        out,
    )
    return out


def resolve(
    coded: DataFrame,
    vectors: DataFrame,
    published: DataFrame | None,
    codebook: Broadcast[Codebook],
    *,
    capacity: int,
    encoder: str,
    keep: Keeper,
) -> tuple[DataFrame, Ledger]:
    """Column ``rq_resolved`` of items that have just been coded.

    Args:
        coded: item_id, content_hash, residual_error, rq, ...; read several times.
        vectors: item_id and vector of at least these items.
        published: rows of semantic_ids of this codebook that do not leave; None: there are none.
        codebook: that made the codes.
        capacity: maximum number of items per code.
        encoder: encoder_version of ``vectors``.
        keep: holds frames until the result is written.

    Returns:
        ``coded`` and ``rq_resolved``; how many newcomers were beyond capacity, moved, or not.
    """
    from pyspark.sql import functions as F

    if published is None:
        coded = keep(coded.withColumn("kept", F.lit(None).cast("array<int>")))
    else:
        published = published.where(F.col("rq_resolved").isNotNull())
        unchanged = published.where(F.col("encoder_version") == encoder).select(
            "item_id", "content_hash", F.col("rq_resolved").alias("kept")
        )
        coded = keep(coded.join(unchanged, ["item_id", "content_hash"], "left"))
    new = keep(
        coded.where(F.col("kept").isNull()).select(
            "item_id",
            *_prefix_and_code("rq", codebook),
            "residual_error",
            F.xxhash64("item_id").alias("tie"),
        )
    )
    taken = keep(_taken(new, published, codebook, capacity))
    level_size = codebook.value.sizes[-1]
    busy = (
        taken.groupBy("prefix")
        .agg(
            (F.lit(capacity) * level_size - F.sum("places")).alias("free"),
            F.sum("over").alias("over"),
        )
        .where("over > 0")
    )
    no_room = F.greatest(F.col("over") - F.col("free"), F.lit(0))
    row = busy.agg(F.sum("over"), F.sum(F.least("over", "free")), F.sum(no_room)).first()
    over, room, without = (int(number or 0) for number in row) if row is not None else (0, 0, 0)
    plain = F.coalesce("kept", "rq")
    ledger = Ledger(
        name="newcomers beyond the capacity of their code",
        rows_in=over,
        rows_out=0,
        dropped={"no_room_so_plain_code": without},
    )
    if not room:
        return coded.withColumn("rq_resolved", plain).drop("kept"), ledger
    free = busy.select("prefix", "free")
    moves = keep(_moves(new, taken, free, vectors, codebook, capacity))
    ledger = replace(ledger, rows_out=moves.count())
    head = F.slice("rq", 1, len(codebook.value.levels) - 1)
    there = F.when(F.col("to").isNotNull(), F.concat(head, F.array("to"))).otherwise(plain)
    resolved = coded.join(moves, "item_id", "left").withColumn("rq_resolved", there)
    return resolved.drop("kept", "to"), ledger


def _prefix_and_code(column: str, codebook: Broadcast[Codebook]) -> list[Column]:
    from pyspark.sql import functions as F

    levels = len(codebook.value.levels)
    return [F.slice(column, 1, levels - 1).alias("prefix"), F.get(column, levels - 1).alias("code")]


def _taken(
    new: DataFrame, published: DataFrame | None, codebook: Broadcast[Codebook], capacity: int
) -> DataFrame:
    """(prefix, code, held, places, over) of each code in the newcomers' prefixes.

    held: places of published items; places: those of newcomers as well; over: newcomers for whom
    there is no place.
    """
    from pyspark.sql import functions as F

    own = new.groupBy("prefix", "code").agg(F.count("*").alias("own"))
    if published is None:
        both = own.withColumn("held", F.lit(0).cast("bigint"))
    else:
        standing = (
            published.join(new.select("item_id"), "item_id", "left_anti")
            .select(*_prefix_and_code("rq_resolved", codebook))
            .join(new.select("prefix").distinct(), "prefix", "left_semi")
        )
        held = standing.groupBy("prefix", "code").agg(F.count("*").alias("held"))
        both = own.join(held, ["prefix", "code"], "full_outer").fillna(0, ["own", "held"])
    wanted = F.col("own") + F.col("held")
    return both.select(
        "prefix",
        "code",
        "held",
        F.least(wanted, F.lit(capacity)).alias("places"),
        F.greatest(F.least("own", wanted - capacity), F.lit(0)).alias("over"),
    )


def _moves(
    new: DataFrame,
    taken: DataFrame,
    busy: DataFrame,
    vectors: DataFrame,
    codebook: Broadcast[Codebook],
    capacity: int,
) -> DataFrame:
    """(item_id, to): the newcomers that move, and their last-level code."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    order = ["residual_error", "tie", "item_id"]
    in_code = F.row_number().over(Window.partitionBy("prefix", "code").orderBy(*order))
    in_prefix = F.row_number().over(Window.partitionBy("prefix").orderBy(*order))
    full = taken.where("over > 0").select("prefix", "code", "held")
    movers = (
        new.join(full, ["prefix", "code"])
        .withColumn("rank", in_code)
        .where(F.col("rank") > F.lit(capacity) - F.col("held"))
        .withColumn("place", in_prefix)
        .join(busy, "prefix")
        .where(F.col("place") <= F.col("free"))  # those who come later find the prefix full
        .join(vectors.select("item_id", "vector"), "item_id")
        .select("prefix", "place", "item_id", "code", F.lit(-1).alias("taken"), "vector")
    )
    before = taken.join(busy, "prefix", "left_semi").select(
        "prefix",
        F.lit(0).alias("place"),
        F.lit(None).cast("string").alias("item_id"),
        "code",
        F.col("places").cast("int").alias("taken"),
        F.lit(None).cast("array<float>").alias("vector"),
    )
    rows = movers.unionByName(before).repartition("prefix")
    rows = rows.sortWithinPartitions("prefix", "place", "code")
    return rows.mapInArrow(_mover(codebook, capacity), "item_id string, to int")


def _mover(
    broadcast: Broadcast[Codebook], capacity: int
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def move(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        *levels, last = broadcast.value.levels
        room = np.zeros(len(last), np.int64)
        open_prefix: NDArray[np.int32] | None = None
        for batch in batches:
            if batch.num_rows == 0:
                continue
            prefix = lists_to_matrix(batch["prefix"], "semantic_ids").astype(np.int32, copy=False)
            taken = batch["taken"].to_numpy()
            mover = taken < 0
            rest = np.zeros((batch.num_rows, last.shape[1]), np.float32)
            if mover.any():
                x = lists_to_matrix(batch["vector"].filter(pa.array(mover)), "item_embeddings")
                rest[mover] = _before_last(x.astype(np.float32), prefix[mover], levels)
            first = np.empty(batch.num_rows, np.bool_)
            first[0] = open_prefix is None or bool((prefix[0] != open_prefix).any())
            first[1:] = (prefix[1:] != prefix[:-1]).any(axis=1)
            to = place_overflow(
                rest,
                last,
                room,
                first=first,
                code=batch["code"].to_numpy(),
                taken=taken,
                capacity=capacity,
            )
            open_prefix = prefix[-1]
            ids = batch["item_id"].filter(pa.array(mover))
            yield pa.RecordBatch.from_arrays([ids, pa.array(to[mover])], names=["item_id", "to"])

    return move


def _before_last(x: Floats, prefix: NDArray[np.int32], levels: list[Floats]) -> Floats:
    """What the levels before the last one leave of ``x``, rounded as ``encode`` rounds it."""
    for number, level in enumerate(levels):
        x = x - level[prefix[:, number]]
    return x


def unresolved(ids: DataFrame, capacity: int) -> DataFrame:
    """Items beyond the capacity of their code: (item_id, item_idx, code, items, distance).

    Of a code with more items than ``capacity``, those that came last (``assigned_at``); among items
    of one run, those whose plain code it is, the farthest first.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    crowded = ids.groupBy("rq_resolved").agg(F.count("*").alias("items"))
    crowded = crowded.where(F.col("items") > capacity)
    order = [
        F.col("assigned_at"),
        F.col("rq_resolved") == F.col("rq"),
        F.col("residual_error"),
        F.xxhash64("item_id"),
        F.col("item_id"),
    ]
    rank = F.row_number().over(Window.partitionBy("rq_resolved").orderBy(*order))
    return (
        ids.join(crowded, "rq_resolved")
        .withColumn("rank", rank)
        .where(F.col("rank") > capacity)
        .select(
            "item_id",
            "item_idx",
            F.col("rq_resolved").alias("code"),
            "items",
            F.col("residual_error").alias("distance"),
        )
    )


def measure_resolved(ids: DataFrame, without_room: int) -> list[Metric]:
    """Rates of ``rq_resolved`` over the catalogue, as metrics of variant rq_resolved.

    Args:
        ids: rows of semantic_ids of one codebook; all have ``rq_resolved``.
        without_room: number of rows of ``unresolved``.
    """
    from pyspark.sql import functions as F

    codes = ids.groupBy("rq_resolved").agg(
        F.count("*").alias("items"),
        F.count_if(F.col("rq_resolved") != F.col("rq")).alias("moved"),
    )
    shared = F.when(F.col("items") > 1, F.col("items")).otherwise(0)
    row = codes.agg(
        F.sum("items"), F.count("*"), F.sum(shared), F.max("items"), F.sum("moved")
    ).first()
    assert row is not None
    items, distinct, sharing, largest, moved = (int(value) for value in row)
    collisions = Collisions(items, distinct, sharing, largest)
    values = {
        "duplicate_rate": collisions.duplicate_rate,
        "shared_rate": collisions.shared_rate,
        "items_per_code": collisions.items_per_code,
        "largest_code": float(largest),
        "resolver_moved": float(moved),
        "resolver_unresolved": float(without_room),
    }
    return [
        Metric(metric=name, value=value, n=items, variant="rq_resolved")
        for name, value in values.items()
    ]
