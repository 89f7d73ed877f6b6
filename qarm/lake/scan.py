"""Parquet files of a pinned table, read by Python tasks directly.

Rows that Spark sends from the JVM to Python are converted to Arrow value by value. For vectors this
takes longer than assigning their codes. A task that opens the files itself reads Arrow directly;
it needs an fsspec driver for the lake's file system, as training does.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from qarm.lake import files
from qarm.lake.tables import Lake, TableRef

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

_TASK_BYTES = 128 << 20
"""Bytes per task; the default of spark.sql.files.maxPartitionBytes."""
_BATCH_ROWS = 16_384


class Piece(NamedTuple):
    """Part ``part`` of ``of`` of a file: row group g of n belongs to part floor(g * of / n)."""

    uri: str
    part: int
    of: int
    size: int
    """Approximate bytes."""


def map_files(
    lake: Lake,
    ref: TableRef,
    columns: Sequence[str],
    function: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: str,
) -> DataFrame:
    """``mapInArrow(function, schema)`` over ``columns`` of the table at its version.

    Raises:
        InputError: the files alone do not hold the table (``Lake.live_files``).
    """
    spark = lake.spark
    tasks = deal_pieces(pieces_of(lake.live_file_sizes(ref)), spark.sparkContext.defaultParallelism)
    wanted = list(columns)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        numbers = [n for batch in batches for n in batch.column(0).to_pylist()]
        yield from function(read_pieces([p for n in numbers for p in tasks[n]], wanted))

    return spark.range(0, len(tasks), 1, max(len(tasks), 1)).mapInArrow(run, schema)


def pieces_of(sizes: Sequence[tuple[str, int]]) -> list[Piece]:
    """Files (URI, bytes) cut into pieces of about ``_TASK_BYTES`` at most."""
    pieces = []
    for uri, size in sizes:
        of = max(1, -(-size // _TASK_BYTES))
        pieces += [Piece(uri, part, of, size // of) for part in range(of)]
    return pieces


def deal_pieces(pieces: Sequence[Piece], slots: int) -> list[list[Piece]]:
    """Pieces per task, so that tasks have about equal bytes: largest piece first, each to the task
    with the fewest bytes. There are at least ``slots`` tasks if there are that many pieces.
    """
    total = sum(piece.size for piece in pieces)
    count = min(len(pieces), max(slots, -(-total // _TASK_BYTES)))
    tasks: list[list[Piece]] = [[] for _ in range(count)]
    load = [(0, 0, number) for number in range(count)]
    for piece in sorted(pieces, key=lambda p: (-p.size, p)):
        held, pieces_held, number = heapq.heappop(load)
        tasks[number].append(piece)
        heapq.heappush(load, (held + piece.size, pieces_held + 1, number))
    return tasks


def read_pieces(pieces: Iterable[Piece], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of ``columns``, at most ``_BATCH_ROWS`` rows each."""
    import pyarrow.parquet as pq

    for piece in pieces:
        with files.open_file(piece.uri) as opened:
            file = pq.ParquetFile(opened)
            count = file.num_row_groups
            groups = [g for g in range(count) if g * piece.of // count == piece.part]
            if groups:
                yield from file.iter_batches(
                    _BATCH_ROWS, row_groups=groups, columns=list(columns), use_threads=False
                )
