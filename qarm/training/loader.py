"""Batches of tensors from the files of a pinned Delta version, in a reproducible order.

Rows are shuffled in blocks: whole row groups of a shard, in an order that differs by epoch, are
collected until they have ``shuffle_rows / shards`` rows, and permuted. Each step takes the same
number of rows from every shard, so that a batch mixes rows of at least as many row groups as there
are shards. The order is a pure function of (files, seed, epoch, shards).

When a shard has no more rows, the batch is filled with copies of its last row at weight 0 (copies,
so that no loss meets values that never occur). No row is ever dropped or carried over to the next
epoch, and all ranks take the same number of steps.

Three stages run in parallel: Petastorm's threads decode row groups (``row_groups``), one thread
holds the next round of blocks, and one gathers batches. A row is copied once, from Arrow's memory
to its place in the batch; within a step, rows of one row group are adjacent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from qarm.errors import RowsLostError
from qarm.training import collectives
from qarm.training.columns import Arrays, check_types, rows_of
from qarm.training.prefetch import Prefetch
from qarm.training.row_groups import read_row_groups
from qarm.training.shards import Block, RowGroup, ShardPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from qarm.config.training import Loader

__all__ = ["WEIGHT", "EpochLoader", "RowGroup", "ShardPlan"]

WEIGHT = "__weight__"
"""Column of every batch: 1 for a row of the files, 0 for padding."""

_PREFETCHED_BATCHES = 4


class EpochLoader:
    """Batches of equal size for every rank; each row comes exactly once per epoch.

    Args:
        files: Parquet files (URIs or paths), the live files of one table version.
        columns: columns to read: numbers, booleans, dates, and lists of numbers.
        settings: shards, shuffle_rows and workers; the order does not depend on the workers. The
            ranks together hold about twice ``shuffle_rows`` rows: one round of blocks is read while
            the previous one is used.
        batch_size: rows per step and rank.
        rank, world: number of this rank, and number of ranks.
        seed: seed of the order, which also depends on the epoch; None keeps the order of the files,
            for prediction.
        list_lengths: length of each list column.

    Attributes:
        plan: shards and steps.
        rows_read: rows of the files that this rank has returned in the latest epoch.
        wait_seconds: time that the consumer waited for batches in the latest epoch.

    Raises:
        InputError: no files, a missing or unusable column, fewer row groups than shards.
        ConfigError: batch and shards do not fit.
    """

    def __init__(
        self,
        files: Sequence[str],
        columns: Sequence[str],
        settings: Loader,
        *,
        batch_size: int,
        rank: int,
        world: int,
        seed: int | None,
        list_lengths: Mapping[str, int] | None = None,
    ) -> None:
        self.plan = ShardPlan.from_files(
            files, columns, batch_size=batch_size, world=world, shards=settings.shards
        )
        self.columns = tuple(dict.fromkeys(columns))
        self.list_lengths = dict(list_lengths or {})
        check_types(self.plan.schema, self.columns, self.list_lengths)
        self.rank = rank
        self.seed = seed
        self.settings = settings
        self.rows_read = 0
        self.wait_seconds = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, equal on all ranks."""
        return self.plan.steps

    @property
    def rows_per_rank(self) -> list[int]:
        """Rows that each rank reads per epoch, by the Parquet footers."""
        return self.plan.rows_per_rank

    def epoch(self, epoch_no: int, start_step: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches of one epoch, from ``start_step`` on; blocks that end before it are not read.

        Yields:
            Column -> tensor of ``batch_size`` rows, (batch_size,) or (batch_size, length), and
            ``__weight__``, float32. The rows are ordered by the rank's shards.

        Raises:
            RowsLostError: the number of rows read differs from the footers (on all ranks, after
                the last batch).
            InputError: a null, or a list of another length.
        """
        import torch

        self.rows_read, self.wait_seconds = 0, 0.0
        source = self._batches(epoch_no, start_step)
        with closing(Prefetch(source, _PREFETCHED_BATCHES)) as batches:
            started = time.perf_counter()
            for arrays, real in batches:
                self.wait_seconds += time.perf_counter() - started
                self.rows_read += real
                yield {name: torch.from_numpy(array) for name, array in arrays.items()}
                started = time.perf_counter()
        self._check_rows(start_step)

    def _blocks(self, epoch_no: int, start_step: int) -> list[Block]:
        """This rank's blocks in the order in which the steps need them."""
        plan, needed = self.plan, []
        begin = start_step * plan.shard_batch
        size = 1 if self.seed is None else max(1, self.settings.shuffle_rows // plan.shards)
        for shard in plan.shards_of(self.rank) if start_step < plan.steps else ():
            generator = self._generator(epoch_no, shard)
            blocks = plan.blocks(shard, block_rows=size, generator=generator)
            # A shard that ended before start_step still provides its last row, for padding.
            ahead = [b for b in blocks if b.start + plan.block_rows(b) > begin]
            needed += ahead or blocks[-1:]
        return sorted(needed, key=lambda b: (b.start // plan.shard_batch, b.shard))

    def _generator(self, *path: int) -> np.random.Generator | None:
        """Random numbers of this place in the order; None where the files' order is kept."""
        if self.seed is None:
            return None
        return np.random.default_rng([self.seed & 0xFFFFFFFFFFFFFFFF, *path])

    def _read(self, blocks: Sequence[Block]) -> Generator[list[Arrays], None, None]:
        """Row groups of each block."""
        wanted = [self.plan.row_groups[i] for block in blocks for i in block.row_groups]
        reading = read_row_groups(wanted, self.columns, self.list_lengths, self.settings.workers)
        with closing(reading) as row_groups:
            for block in blocks:
                yield [next(row_groups) for _ in block.row_groups]

    def _batches(self, epoch_no: int, start_step: int) -> Generator[tuple[Arrays, int], None, None]:
        """Batches with their number of real rows; runs on the prefetching thread."""
        plan = self.plan
        blocks = self._blocks(epoch_no, start_step)
        begin = start_step * plan.shard_batch
        lanes = {shard: _Lane() for shard in plan.shards_of(self.rank)}
        left = {s: sum(b.shard == s for b in blocks) for s in lanes}
        with closing(Prefetch(self._read(blocks), len(lanes))) as reading:
            coming = zip(blocks, reading, strict=True)
            for _ in range(start_step, plan.steps):
                while any(lane.rows < plan.shard_batch and left[s] for s, lane in lanes.items()):
                    block, parts = next(coming)
                    rows = np.arange(plan.block_rows(block))
                    if generator := self._generator(epoch_no, block.shard, 1 + block.number):
                        generator.shuffle(rows)
                    lanes[block.shard].add(parts, rows, skip=max(0, begin - block.start))
                    left[block.shard] -= 1
                yield _next_batch(list(lanes.values()), plan.shard_batch)

    def _check_rows(self, start_step: int) -> None:
        """Compare the rows returned with the footers, for each rank and in total."""
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


_Piece = tuple[Arrays, "NDArray[np.int64]"]
"""Columns of a row group, and which of its rows are taken."""


class _Lane:
    """Rows of one shard that are not yet in a batch: blocks, and the order of their rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._waiting: list[tuple[list[Arrays], NDArray[np.int64]]] = []
        self._last: _Piece | None = None

    def add(self, parts: list[Arrays], order: NDArray[np.int64], skip: int) -> None:
        """Append rows of a block's row groups in this order, except the first ``skip``."""
        self._last = _split(parts, order[-1:])[0]
        if skip < len(order):
            self._waiting.append((parts, order[skip:]))
            self.rows += len(order) - skip

    def take(self, count: int) -> tuple[list[_Piece], int]:
        """Places of the next ``count`` rows, the last one repeated if there are fewer; and how
        many are real.
        """
        real = missing = min(count, self.rows)
        taken: list[_Piece] = []
        while missing:
            parts, order = self._waiting[0]
            taken += _split(parts, order[:missing])
            if len(order) <= missing:
                self._waiting.pop(0)
            else:
                self._waiting[0] = parts, order[missing:]
            missing -= min(len(order), missing)
        self.rows -= real
        if real < count:
            assert self._last is not None  # every shard has a row
            arrays, last = self._last
            taken.append((arrays, np.repeat(last, count - real)))
        return taken, real


def _split(parts: Sequence[Arrays], places: NDArray[np.int64]) -> list[_Piece]:
    """``places`` in the concatenated row groups, as places in each of them."""
    if len(parts) == 1:
        return [(parts[0], places)]
    places = np.sort(places)
    starts = np.cumsum([0, *map(rows_of, parts)])
    cuts = np.searchsorted(places, starts)
    pieces = zip(parts, starts, cuts, cuts[1:], strict=False)
    return [(part, places[a:b] - start) for part, start, a, b in pieces if a < b]


def _next_batch(lanes: Sequence[_Lane], rows: int) -> tuple[Arrays, int]:
    """One batch from ``rows`` rows of each lane, with weights; and how many rows are real."""
    taken = [lane.take(rows) for lane in lanes]
    pieces = [piece for of_lane, _ in taken for piece in of_lane]
    batch = {}
    for name, values in pieces[0][0].items():
        batch[name] = column = _empty((len(lanes) * rows, *values.shape[1:]), values.dtype)
        start = 0
        for arrays, order in pieces:
            # Mode "raise" would buffer ``out``.
            place = column[start : start + len(order)]
            np.take(arrays[name], order, axis=0, out=place, mode="clip")
            start += len(order)
    weight = np.concatenate([np.arange(rows) < real for _, real in taken])
    batch[WEIGHT] = weight.astype(np.float32)
    return batch, sum(real for _, real in taken)


def _empty(shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """Like ``np.empty``, from Arrow's allocator.

    It keeps freed memory for the next batch. glibc returns a thread's memory to the kernel, and the
    page faults took as long as the copying.
    """
    import pyarrow as pa

    buffer = pa.allocate_buffer(math.prod(shape) * kind.itemsize)
    return np.frombuffer(buffer, kind).reshape(shape)
