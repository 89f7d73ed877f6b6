"""Batches of tensors from Parquet files through Petastorm; the only module that knows it.

Petastorm reads row groups on threads. Its own batch reader would lose three things that training
needs, so ``_open_reader`` builds the same ``Reader`` that ``make_batch_reader`` builds, with

* the row groups' order given by us, a pure function of (files, seed, epoch, shards): it is the
  same at any number of worker threads, and reading can start in the middle of an epoch;
* results that carry the number of their row group. They are put back in order, and reading ends
  when all have come, not when the pool looks idle: its check "no work left" can win the race
  against the thread that hands out work, and rows would be lost;
* list columns that become 2-d arrays by one reshape of Arrow's values, not by ``np.vstack`` over
  an object array of rows.

Rows are shuffled in blocks: whole row groups, in an order that differs by epoch, are gathered
until a block has ``shuffle_rows`` rows, and permuted. Each step takes the same number of rows from
every shard. Where a shard has no more, the batch is filled with copies of its last row at weight 0
(copies, so that no loss meets values that never occur), and no row is ever dropped.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from qarm.errors import RowsLostError
from qarm.training import collectives
from qarm.training.columns import Arrays, check_types, to_arrays
from qarm.training.shards import Block, RowGroup, ShardPlan, readable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["WEIGHT", "EpochLoader", "RowGroup", "ShardPlan"]

WEIGHT = "__weight__"
"""Column of every batch: 1 for a row of the files, 0 for padding."""

SHUFFLE_ROWS = 262_144
"""Rows that are permuted together, a shard."""

_PREFETCHED_BATCHES = 4
_EMPTY_ANSWERS = 200


class EpochLoader:
    """Equal batches for every rank, each row exactly once an epoch.

    Args:
        files: Parquet files (URIs or paths), the live files of one table version.
        columns: columns to read: numbers, booleans, dates, and lists of numbers.
        batch_size: rows a step and rank.
        rank, world: this rank, and how many there are.
        seed: seed of the order, which also depends on the epoch.
        workers: threads that read; the order does not depend on it.
        shuffle: False keeps the files' order, for prediction.
        list_lengths: length of each list column.
        shards: canonical shards (see ``qarm.training.shards``); one a rank by default.
        shuffle_rows: rows a shard permutes together; memory is about twice that.

    Attributes:
        plan: shards and steps.
        rows_read: rows of the files that this rank was given in the latest epoch.
        wait_seconds: time the consumer waited for batches in the latest epoch.

    Raises:
        InputError: no files, a missing or unusable column, fewer row groups than shards.
        ConfigError: batch and shards do not fit.
    """

    def __init__(
        self,
        files: Sequence[str],
        columns: Sequence[str],
        batch_size: int,
        rank: int,
        world: int,
        seed: int,
        workers: int = 1,
        shuffle: bool = True,
        list_lengths: Mapping[str, int] | None = None,
        *,
        shards: int | None = None,
        shuffle_rows: int = SHUFFLE_ROWS,
    ) -> None:
        self.plan = ShardPlan.from_files(
            files, columns, batch_size=batch_size, world=world, shards=shards
        )
        self.columns = tuple(dict.fromkeys(columns))
        self.list_lengths = dict(list_lengths or {})
        check_types(self.plan.schema, self.columns, self.list_lengths)
        self.rank = rank
        self.seed = seed
        self.workers = max(1, workers)
        self.shuffle = shuffle
        self.shuffle_rows = shuffle_rows
        self.rows_read = 0
        self.wait_seconds = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, equal on all ranks."""
        return self.plan.steps

    @property
    def rows_per_rank(self) -> list[int]:
        """Rows each rank reads in an epoch, by the footers."""
        return self.plan.rows_per_rank

    def epoch(self, epoch_no: int, start_step: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches of one epoch, from ``start_step`` on.

        Yields:
            Column -> tensor of ``batch_size`` rows, (batch_size,) or (batch_size, length), and
            ``__weight__``, float32. The rows of the rank's shards stand one after the other.

        Raises:
            RowsLostError: a rank read other rows than the footers promise (on all ranks, after
                the last batch).
            InputError: a null, or a list of another length.
        """
        import torch

        self.rows_read, self.wait_seconds = 0, 0.0
        with closing(_Prefetch(self._batches(epoch_no, start_step))) as batches:
            started = time.perf_counter()
            for arrays, real in batches:
                self.wait_seconds += time.perf_counter() - started
                self.rows_read += real
                yield {name: torch.from_numpy(array) for name, array in arrays.items()}
                started = time.perf_counter()
        self._check_rows(start_step)

    def _blocks(self, epoch_no: int, start_step: int) -> list[Block]:
        """This rank's blocks in the order in which the steps need them."""
        plan, found = self.plan, []
        begin = start_step * plan.shard_batch
        for shard in self.plan.shards_of(self.rank):
            generator = self._generator(epoch_no, shard) if self.shuffle else None
            size = self.shuffle_rows if self.shuffle else 1
            blocks = plan.blocks(shard, block_rows=size, generator=generator)
            # A shard that ended before start_step still gives its last row, for padding.
            ahead = [b for b in blocks if b.start + plan.block_rows(b) > begin]
            found += ahead or blocks[-1:]
        return sorted(found, key=lambda b: (b.start // plan.shard_batch, b.shard))

    def _generator(self, *path: int) -> np.random.Generator:
        return np.random.default_rng([self.seed & 0xFFFFFFFFFFFFFFFF, *path])

    def _batches(self, epoch_no: int, start_step: int) -> Generator[tuple[Arrays, int], None, None]:
        """Batches with their number of real rows; runs on the prefetching thread."""
        plan = self.plan
        blocks = self._blocks(epoch_no, start_step)
        begin = start_step * plan.shard_batch
        lanes = {shard: _Lane() for shard in plan.shards_of(self.rank)}
        left = {s: sum(b.shard == s for b in blocks) for s in lanes}
        with closing(self._read(blocks)) as row_groups:
            coming = iter(blocks)
            for _ in range(start_step, plan.steps):
                while any(lane.rows < plan.shard_batch and left[s] for s, lane in lanes.items()):
                    block = next(coming)
                    parts = [next(row_groups) for _ in block.row_groups]
                    if self.shuffle:
                        generator = self._generator(epoch_no, block.shard, 1 + block.number)
                        rows = _scatter(parts, generator.permutation(plan.block_rows(block)))
                    else:
                        rows = _concatenate(parts)
                    lanes[block.shard].add(rows, skip=max(0, begin - block.start))
                    left[block.shard] -= 1
                pieces = [lane.take(plan.shard_batch) for lane in lanes.values()]
                yield _assemble(pieces, plan.shard_batch)

    def _read(self, blocks: Sequence[Block]) -> Generator[Arrays, None, None]:
        """Columns of the blocks' row groups, in order."""
        wanted = [self.plan.row_groups[i] for block in blocks for i in block.row_groups]
        if not wanted:
            return
        with _open_reader(wanted, self.columns, self.list_lengths, self.workers) as reader:
            early: dict[tuple[str, int], Arrays] = {}
            for group in wanted:
                key = (readable(group.file), group.index)
                while key not in early:
                    found, arrays = _next_result(reader, group)
                    early[found] = arrays
                arrays = early.pop(key)
                seen = len(next(iter(arrays.values())))
                if seen != group.rows:
                    raise RowsLostError(
                        f"row group {group.index} of {group.file} has {group.rows} rows by its "
                        f"footer, and {seen} were read"
                    )
                yield arrays

    def _check_rows(self, start_step: int) -> None:
        """Compare rows given out with the footers, for each rank and in total."""
        done = start_step * self.plan.shard_batch
        promised = [
            sum(max(0, self.plan.rows_of(s) - done) for s in self.plan.shards_of(r))
            for r in range(self.plan.world)
        ]
        shared = collectives.size() == self.plan.world
        read = collectives.gather_objects(self.rows_read) if shared else [self.rows_read]
        expected = promised if shared else [promised[self.rank]]
        if read != expected:
            raise RowsLostError(
                f"rows read by the ranks {read} (in total {sum(read)}), rows in the Parquet "
                f"footers {expected} (in total {sum(expected)}); were the files changed while "
                "they were read? Train on a pinned table version"
            )


class _Lane:
    """Rows of one shard that wait for their step."""

    def __init__(self) -> None:
        self.rows = 0
        self._parts: list[Arrays] = []
        self._last: Arrays = {}

    def add(self, arrays: Arrays, skip: int) -> None:
        """Append rows, but for the first ``skip``."""
        self._last = {name: values[-1:].copy() for name, values in arrays.items()}
        kept = {name: values[skip:] for name, values in arrays.items()}
        rows = len(next(iter(kept.values())))
        if rows:
            self._parts.append(kept)
            self.rows += rows

    def take(self, count: int) -> tuple[Arrays, int]:
        """``count`` rows, the last one repeated where there are fewer; and how many are real."""
        real = min(count, self.rows)
        taken, missing = [], real
        while missing:
            part = self._parts[0]
            size = len(next(iter(part.values())))
            taken.append({name: values[:missing] for name, values in part.items()})
            if size <= missing:
                self._parts.pop(0)
            else:
                self._parts[0] = {name: values[missing:] for name, values in part.items()}
            missing -= min(size, missing)
        self.rows -= real
        if real < count:
            fill = {n: np.repeat(v, count - real, axis=0) for n, v in self._last.items()}
            taken.append(fill)
        return _concatenate(taken), real


def _concatenate(parts: Sequence[Arrays]) -> Arrays:
    if len(parts) == 1:  # Arrow's own memory is read-only, and torch wants to write
        return {name: np.require(values, requirements="W") for name, values in parts[0].items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _scatter(parts: Sequence[Arrays], places: NDArray) -> Arrays:
    """Rows of all parts at ``places``; one copy, where concatenating and permuting make two."""
    ends = np.cumsum([len(next(iter(part.values()))) for part in parts])
    pieces = np.split(places, ends[:-1])
    rows = {n: np.empty((len(places), *v.shape[1:]), v.dtype) for n, v in parts[0].items()}
    for piece, part in zip(pieces, parts, strict=True):
        for name, values in part.items():
            rows[name][piece] = values
    return rows


def _assemble(pieces: Sequence[tuple[Arrays, int]], rows: int) -> tuple[Arrays, int]:
    """One batch from ``rows`` rows of each shard, with weights; and how many rows are real."""
    weight = np.concatenate([np.arange(rows) < real for _, real in pieces]).astype(np.float32)
    arrays = _concatenate([arrays for arrays, _ in pieces])
    return {**arrays, WEIGHT: weight}, sum(real for _, real in pieces)


def _next_result(reader: Any, awaited: RowGroup) -> tuple[tuple[str, int], Arrays]:
    """The next row group that a worker finished: (path, number in the file), columns.

    The pool sometimes says that nothing is left while the last items are on their way; that is
    believed only when it lasts.
    """
    from petastorm.workers_pool import EmptyResultError

    for _ in range(_EMPTY_ANSWERS):
        try:
            return next(reader)
        except EmptyResultError:
            time.sleep(0.01)
    raise RowsLostError(
        f"Petastorm gave no row group {awaited.index} of {awaited.file} ({awaited.rows} rows)"
    )


class _Prefetch:
    """Runs an iterator on a thread, a few items ahead; errors arrive with their traceback."""

    def __init__(self, source: Generator[Any, None, None]) -> None:
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(_PREFETCHED_BATCHES)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source,), daemon=True)
        self._thread.start()

    def _run(self, source: Generator[Any, None, None]) -> None:
        try:
            with closing(source):
                for item in source:
                    if not self._put("item", item):
                        return
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)

    def _put(self, kind: str, value: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Any]:
        while True:
            kind, value = self._queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


@functools.cache
def _reader_classes() -> tuple[Any, Any, Any]:
    """Petastorm's reader, its worker and its thread pool, fitted to us; imported on first use."""
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

        @staticmethod
        def new_results_queue_reader() -> Results:
            return Results()

        def process(self, piece_index: int, worker_predicate: Any, **_: Any) -> None:
            piece = self._split_pieces[piece_index]
            table = piece.read(columns=self.columns)
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


def _open_reader(
    row_groups: Sequence[RowGroup],
    columns: Sequence[str],
    list_lengths: Mapping[str, int],
    workers: int,
) -> Any:
    """A Petastorm reader of ``row_groups``, handed out to its threads in that order."""
    # A page of them a rank: petastorm uses the legacy datasets of the pinned pyarrow. Set anew for
    # each reader, for a test runner may have put the filters back.
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
            {"columns": list(columns), "list_lengths": dict(list_lengths)},
        ),
        reader_pool=pool_class(workers),
        shuffle_row_groups=False,
        num_epochs=1,
        is_batched_reader=True,
        order=[(path_of[group.file], group.index) for group in row_groups],
    )
