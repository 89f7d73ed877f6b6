"""Residual k-means on a whole table, by partial sums of Spark tasks.

Each Lloyd iteration broadcasts the centroids; a task sums its points a cluster, tasks of the next
stage add the partial sums up cluster by cluster, and the driver gets one row a cluster. It holds
K x d numbers and the points that first centres are drawn from, never the table. Sums are exact
(``sums``), so that neither files nor partitions nor the order of tasks show in the result: it is
that of ``fit_residual`` on the same points from the same start.

What a level leaves of the vectors is kept by Spark (memory, then disk) for the next one, so that no
iteration computes former levels again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.balance import Penalties
from qarm.codes.codebook import lists_to_matrix
from qarm.codes.residual import (
    ResidualFit,
    check_sizes,
    relative_weights,
    shrink_of,
    shrunk,
)
from qarm.codes.seeding import Init, farthest, first_centres, relax
from qarm.errors import InputError
from qarm.kernels.nearest import Centroids, Floats, Ints, as_matrix, nearest, prepare
from qarm.kernels.sums import Sums, scale_for

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    Task = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

_FAR_ROWS = 1024
"""Farthest points that the driver looks at together, to place empty clusters."""
_TASKS = 2
"""Most tasks a slot: each sends up to K partial sums through the shuffle."""
_REST = "item_idx bigint, rest binary"  # bytes, for Spark hands lists over number by number
_PARTIAL = "code int, totals binary, mass bigint, size bigint, error double"
_FAR = "cost float, item_idx bigint, code int, weight float, rest binary"


@dataclass(frozen=True, eq=False)
class _Level:
    """What a task needs to know for one pass over the points."""

    centroids: Floats
    penalties: Penalties
    mean_square: float
    normalise: bool

    def ready(self) -> Centroids:
        return prepare(self.penalties.extend_centroids(self.centroids))

    def assign(self, x: Floats, ready: Centroids) -> tuple[Ints, Floats, Floats]:
        """Codes, squared distances and weights of points (n, d)."""
        codes, costs = nearest(self.penalties.extend_points(x), ready)
        ones = np.ones(len(x), np.float32)
        weights = relative_weights(x, self.mean_square) if self.normalise else ones
        return codes, self.penalties.take_off(costs, codes), weights


def fit_residual_table(
    vectors: DataFrame,
    sizes: Sequence[int],
    *,
    iterations: int,
    seeds: Floats,
    seed: int = 0,
    start: Sequence[Floats] | None = None,
    init: Init = "k-means++",
    normalise: bool = False,
    balance: float = 0.0,
    shrink: float | None = 0.0,
    say: Callable[[str], None] | None = None,
) -> ResidualFit:
    """``fit_residual`` on a table; see there for what is not named here.

    Args:
        vectors: columns item_idx and vector (array<float>); ties of farthest points go to the
            smaller item_idx.
        seeds: (m, d) of the vectors, from which first centres are drawn; held by the driver.

    Raises:
        InputError: a level is larger than the rows of either, NaN or infinity, or vectors of
            several lengths.
    """
    d = seeds.shape[1]
    spark = vectors.sparkSession
    slots = spark.sparkContext.defaultParallelism
    rest = vectors.select("item_idx", "vector").coalesce(_TASKS * slots)
    rest = rest.mapInArrow(_pack(d), _REST).persist()
    try:
        rows, mean_square, largest = _measure(rest, d)
        check_sizes(rows, d, sizes, start)
        check_sizes(len(seeds), d, sizes, start)
        codes = np.empty((len(seeds), len(sizes)), np.int32)
        fit = ResidualFit([], codes, [], [], rows, mean_square)
        for number, size in enumerate(sizes):
            if start is None:
                weights = relative_weights(seeds, mean_square) if normalise else None
                centroids = first_centres(seeds, size, init, (seed, number), weights)
            else:
                centroids = as_matrix(start[number], "start")
            penalties = Penalties(size, balance)
            scale = scale_for(largest)
            taken = iterations
            for iteration in range(iterations):
                level = _Level(centroids, penalties, mean_square, normalise)
                sums, inertia = _sum_table(rest, level, scale, slots)
                moved = _move(rest, level, sums)
                penalties.adjust(sums.sizes, inertia)
                if np.array_equal(moved, centroids) and not balance:
                    taken = iteration + 1
                    break
                centroids = moved
            level = _Level(centroids, Penalties(size, 0), mean_square, normalise=False)
            pseudo = 0.0
            if number and shrink != 0:
                sums, inertia = _sum_table(rest, level, scale, slots)
                pseudo = shrink_of(number, shrink, centroids, sums.sizes, inertia)
            if pseudo:
                centroids = shrunk(centroids, sums.sizes, pseudo)
                level = replace(level, centroids=centroids)
            fit.shrunk_by.append(pseudo)
            before, rest = rest, _run(rest, level, _subtract(d), _REST).persist()
            _, mean_square, largest = _measure(rest, d)
            before.unpersist()
            codes[:, number], _ = nearest(seeds, centroids)
            seeds = seeds - centroids[codes[:, number]]
            fit.levels.append(centroids)
            fit.errors.append(mean_square)
            fit.iterations.append(taken)
            if say is not None:
                say(fit.describe(len(sizes)))
        return fit
    finally:
        rest.unpersist()


def _run(rest: DataFrame, level: _Level, task: Callable[[Any], Task], schema: str) -> DataFrame:
    """``task`` on all partitions, with the level broadcast."""
    broadcast = rest.sparkSession.sparkContext.broadcast(level)
    return rest.mapInArrow(task(broadcast), schema)


def _measure(rest: DataFrame, d: int) -> tuple[int, float, float]:
    """Rows, mean squared length, and largest coordinate in absolute value."""
    from pyspark.sql import functions as F

    def measure(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            x = _unpack(batch["rest"], d)
            if len(x):
                squares = float((x.astype(np.float64) ** 2).sum())
                row = {"rows": [len(x)], "squares": [squares], "largest": [float(abs(x).max())]}
                yield pa.RecordBatch.from_pydict(row)

    row = (
        rest.mapInArrow(measure, "rows bigint, squares double, largest double")
        .agg(F.sum("rows"), F.sum("squares"), F.max("largest"))
        .first()
    )
    assert row is not None
    rows = int(row[0] or 0)
    return rows, float(row[1] or 0) / max(rows, 1), float(row[2] or 0)


def _sum_table(rest: DataFrame, level: _Level, scale: float, slots: int) -> tuple[Sums, float]:
    """Sums of all points a cluster, and the (weighted) mean squared distance."""
    k, d = level.centroids.shape
    partial = _run(rest, level, _partial_sums(scale), _PARTIAL)
    merged = partial.repartition(min(slots, k), "code").mapInArrow(_merge(k, d), _PARTIAL)
    sums, error = Sums.zero(k, d, scale), np.zeros(k)
    for batch in merged.toArrow().to_batches():
        sums.merge_rows(*_sums_of(batch, d))
        error[batch["code"].to_numpy()] = batch["error"].to_numpy()
    return sums, float(error.sum()) / (float(sums.mass.sum()) / Sums.ONE)


def _move(rest: DataFrame, level: _Level, sums: Sums) -> Floats:
    """Means of the clusters; empty ones go to the farthest points, as in ``kmeans.update``."""
    empty = np.flatnonzero(sums.sizes == 0).astype(np.int32)
    taken = np.empty((0, sums.totals.shape[1]), np.float32)
    while len(taken) < len(empty):
        x, codes, weights = _farthest(rest, level, taken, len(empty) - len(taken))
        if len(x) == 0:
            break
        sums.add(x, codes, weights, -1)
        sums.add(x, empty[len(taken) :][: len(x)], weights)
        taken = np.concatenate([taken, x])
    return sums.means(level.centroids)


def _farthest(
    rest: DataFrame, level: _Level, taken: Floats, most: int
) -> tuple[Floats, Ints, Floats]:
    """The next farthest points, at most ``most``, with their codes and weights.

    One after the other from the farthest few of the table, as long as what is left of these is
    farther than all others: at least one, unless all distances are zero.
    """
    from pyspark.sql import functions as F

    far = (
        _run(rest, level, _far_points(taken), _FAR)
        .orderBy(F.desc("cost"), "item_idx")
        .limit(_FAR_ROWS)
        .toArrow()
        .combine_chunks()
    )
    if far.num_rows == 0:
        return taken[:0], np.empty(0, np.int32), np.empty(0, np.float32)
    x = _unpack(far["rest"].chunk(0), taken.shape[1])
    costs, weights = far["cost"].to_numpy().copy(), far["weight"].to_numpy()
    others = float(costs[-1]) if far.num_rows == _FAR_ROWS else 0.0
    rows = farthest(x, weights, costs, most, others)
    return x[rows], far["code"].to_numpy()[rows], weights[rows]


def _pack(d: int) -> Task:
    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                x = lists_to_matrix(batch["vector"], "item_embeddings")
                if x.shape[1] != d:
                    raise InputError(f"item_embeddings: vectors of {x.shape[1]} and of {d} numbers")
                yield _rest_batch(batch, as_matrix(x, "item_embeddings"))

    return pack


def _subtract(d: int) -> Callable[[Any], Task]:
    def with_level(broadcast: Any) -> Task:
        def subtract(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            level, ready = _open(broadcast)
            for batch in batches:
                x = _unpack(batch["rest"], d)
                if len(x):
                    yield _rest_batch(batch, x - level.centroids[level.assign(x, ready)[0]])

        return subtract

    return with_level


def _partial_sums(scale: float) -> Callable[[Any], Task]:
    def with_level(broadcast: Any) -> Task:
        def sum_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            level, ready = _open(broadcast)
            k, d = level.centroids.shape
            sums, error = Sums.zero(k, d, scale), np.zeros(k)
            for batch in batches:
                x = _unpack(batch["rest"], d)
                codes, distances, weights = level.assign(x, ready)
                sums.add(x, codes, weights)
                costs = weights.astype(np.float64) * distances
                error += np.bincount(codes, weights=costs, minlength=k)
            yield _sums_batch(sums, error)

        return sum_up

    return with_level


def _merge(k: int, d: int) -> Task:
    def merge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums, error = Sums.zero(k, d, 1.0), np.zeros(k)
        for batch in batches:
            if batch.num_rows:
                sums.merge_rows(*_sums_of(batch, d))
                codes, errors = batch["code"].to_numpy(), batch["error"].to_numpy()
                error += np.bincount(codes, weights=errors, minlength=k)
        yield _sums_batch(sums, error)

    return merge


def _far_points(taken: Floats) -> Callable[[Any], Task]:
    def with_level(broadcast: Any) -> Task:
        def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            import pyarrow as pa

            level, ready = _open(broadcast)
            for batch in batches:
                x = _unpack(batch["rest"], taken.shape[1])
                codes, distances, weights = level.assign(x, ready)
                costs = distances * weights
                for point in taken:
                    relax(x, point, weights, costs)
                order = np.lexsort((batch["item_idx"].to_numpy(), -costs))
                rows = order[: min(_FAR_ROWS, np.count_nonzero(costs))]
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array(costs[rows]),
                        batch["item_idx"].take(pa.array(rows)),
                        pa.array(codes[rows]),
                        pa.array(weights[rows]),
                        batch["rest"].take(pa.array(rows)),
                    ],
                    names=["cost", "item_idx", "code", "weight", "rest"],
                )

        return look

    return with_level


def _open(broadcast: Any) -> tuple[_Level, Centroids]:
    """The level of this pass, in a task, which is one slot and takes one thread."""
    level: _Level = broadcast.value
    return level, level.ready()


def _unpack(column: pa.BinaryArray, d: int) -> Floats:
    """(n, d) float32 from a column of bytes; no copy."""
    return _from_bytes(column, d, np.float32)


def _rest_batch(batch: pa.RecordBatch, x: Floats) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([batch["item_idx"], _to_bytes(x)], names=["item_idx", "rest"])


def _to_bytes(matrix: NDArray[Any]) -> pa.BinaryArray:
    """A row of bytes for each row of (n, d)."""
    import pyarrow as pa

    width = matrix.itemsize * matrix.shape[1]
    offsets = pa.py_buffer(np.arange(len(matrix) + 1, dtype=np.int32) * width)
    content = pa.py_buffer(np.ascontiguousarray(matrix))
    return pa.BinaryArray.from_buffers(pa.binary(), len(matrix), [None, offsets, content])


def _from_bytes(column: pa.BinaryArray, d: int, kind: type[np.generic]) -> NDArray[Any]:
    _, offsets, content = column.buffers()
    if len(column) == 0 or content is None:
        return np.empty((0, d), kind)
    first = int(np.frombuffer(offsets, np.int32)[column.offset])
    values = np.frombuffer(content, kind, len(column) * d, first)
    return values.reshape(-1, d)


def _sums_batch(sums: Sums, error: NDArray[np.float64]) -> pa.RecordBatch:
    """A row for each cluster with points."""
    import pyarrow as pa

    codes = np.flatnonzero(sums.sizes).astype(np.int32)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(codes),
            _to_bytes(sums.totals[codes]),
            pa.array(sums.mass[codes]),
            pa.array(sums.sizes[codes]),
            pa.array(error[codes]),
        ],
        names=["code", "totals", "mass", "size", "error"],
    )


def _sums_of(rows: pa.RecordBatch, d: int) -> tuple[NDArray[Any], ...]:
    """Codes, totals, mass and sizes of rows that ``_sums_batch`` made."""
    totals = _from_bytes(rows["totals"], d, np.int64)
    return rows["code"].to_numpy(), totals, rows["mass"].to_numpy(), rows["size"].to_numpy()
