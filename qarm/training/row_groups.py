"""Row groups of Parquet files through Petastorm; the only module that imports it.

Petastorm reads row groups on threads. Its own batch reader lacks three things that training needs,
so ``_open_reader`` builds the same ``Reader`` as ``make_batch_reader``, except that

* we give the order of row groups, a pure function of (files, seed, epoch, shards). It does not
  depend on the number of worker threads, and reading can start in the middle of an epoch;
* results carry the number of their row group. They are put back in order, and reading ends when all
  have arrived, not when the pool looks idle: its check "no work left" can win the race against the
  thread that hands out work, and rows would be lost;
* list columns become matrices by one reshape of Arrow's values, not by ``np.vstack`` over an object
  array of rows.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from qarm.errors import RowsLostError
from qarm.training.columns import Arrays, rows_of, to_arrays
from qarm.training.shards import RowGroup, readable

_EMPTY_ANSWERS = 200


def read_row_groups(
    wanted: Sequence[RowGroup],
    columns: Sequence[str],
    list_lengths: Mapping[str, int],
    workers: int,
) -> Generator[Arrays, None, None]:
    """Columns of the row groups, in order; they are views of Arrow's memory, which is read-only.

    Raises:
        RowsLostError: a row group is missing, or its number of rows differs from its footer.
        InputError: a null, or a list of another length.
    """
    if not wanted:
        return
    with _open_reader(wanted, columns, list_lengths, workers) as reader:
        early: dict[tuple[str, int], Arrays] = {}
        for group in wanted:
            key = (readable(group.file), group.index)
            while key not in early:
                found, arrays = _next_result(reader, group)
                early[found] = arrays
            arrays = early.pop(key)
            if rows_of(arrays) != group.rows:
                raise RowsLostError(
                    f"row group {group.index} of {group.file} has {group.rows} rows by its "
                    f"footer, and {rows_of(arrays)} were read"
                )
            yield arrays


def _next_result(reader: Any, awaited: RowGroup) -> tuple[tuple[str, int], Arrays]:
    """The next row group that a worker finished: (path, number in the file), columns.

    The pool may report that nothing is left while the last items are still being added, so that
    report is only accepted after some repetitions.
    """
    from petastorm.workers_pool import EmptyResultError

    for _ in range(_EMPTY_ANSWERS):
        try:
            finished: tuple[tuple[str, int], Arrays] = next(reader)
            return finished
        except EmptyResultError:
            time.sleep(0.01)
    raise RowsLostError(
        f"Petastorm returned no row group {awaited.index} of {awaited.file} ({awaited.rows} rows)"
    )


@functools.cache
def _reader_classes() -> tuple[Any, Any, Any]:
    """Petastorm's reader and worker, adapted, and its thread pool; imported on first use."""
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.reader import Reader
    from petastorm.workers_pool.thread_pool import ThreadPool

    class Results:
        batched_output = True

        def read_next(self, pool: Any, schema: Any, ngram: Any) -> Any:
            return pool.get_results()

    class Worker(ArrowReaderWorker):
        columns: Sequence[str] = ()
        list_lengths: Mapping[str, int] = {}
        workers = 1

        @staticmethod
        def new_results_queue_reader() -> Results:
            return Results()

        def process(self, piece_index: int, worker_predicate: Any, **_: Any) -> None:
            piece = self._split_pieces[piece_index]
            # Threads per column do not help when several row groups are decoded in parallel.
            table = piece.read(columns=self.columns, use_threads=self.workers == 1)
            where = f"row group {piece.row_group} of {piece.path}"
            arrays = to_arrays(table, self.list_lengths, where)
            self.publish_func(((piece.path, piece.row_group), arrays))

    class OrderedReader(Reader):
        def __init__(self, *args: Any, order: Sequence[tuple[str, int]], **kwargs: Any) -> None:
            self._order = order
            super().__init__(*args, **kwargs)

        def _filter_row_groups(
            self, dataset: Any, row_groups: Any, *_: Any
        ) -> tuple[list[int], None]:
            numbers = {(piece.path, piece.row_group): i for i, piece in enumerate(row_groups)}
            return [numbers[key] for key in self._order], None

    return OrderedReader, Worker, ThreadPool


def _keep_freed_memory() -> None:
    """Let Arrow keep freed memory for ten seconds instead of one, so that the next blocks reuse it.

    Otherwise page faults add half to the time of decoding.
    """
    import pyarrow as pa

    with suppress(NotImplementedError):  # Arrow was built with another allocator
        pa.jemalloc_set_decay_ms(10_000)


def _open_reader(
    row_groups: Sequence[RowGroup],
    columns: Sequence[str],
    list_lengths: Mapping[str, int],
    workers: int,
) -> Any:
    """A Petastorm reader whose threads take ``row_groups`` in that order."""
    _keep_freed_memory()
    # Petastorm uses the legacy datasets of the pinned pyarrow, which warn many times. Set for each
    # reader, because a test runner may have restored the filters.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm(\..*)?$")
    # Its own schema lacks some types; columns are read by our list, not by that schema.
    warnings.filterwarnings("ignore", r"Column .* has an unsupported field", UserWarning)
    reader_class, worker_class, pool_class = _reader_classes()
    from petastorm.fs_utils import get_filesystem_and_path_or_paths

    files = sorted({group.file for group in row_groups})
    paths = [readable(file) for file in files]
    if paths[0] == files[0] and "://" in paths[0]:
        filesystem, paths = get_filesystem_and_path_or_paths(paths)
    else:
        filesystem, _ = get_filesystem_and_path_or_paths("file:///")
    path_of = dict(zip(files, paths, strict=True))
    return reader_class(
        filesystem,
        paths,
        worker_class=type(
            "Worker",
            (worker_class,),
            {
                "columns": list(columns),
                "list_lengths": dict(list_lengths),
                "workers": workers,
            },
        ),
        reader_pool=pool_class(workers),
        shuffle_row_groups=False,
        num_epochs=1,
        is_batched_reader=True,
        order=[(path_of[group.file], group.index) for group in row_groups],
    )
