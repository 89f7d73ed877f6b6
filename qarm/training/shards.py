"""Which rank reads which row groups, in which order: pure functions of the Parquet footers.

Row groups are numbered as in Petastorm: files in order of their URI, row groups in file order. They
are distributed over *canonical shards* of similar numbers of rows; rank r reads ``shards / world``
consecutive shards. Each step takes the same number of rows from every shard. With a fixed number of
shards and a fixed global batch, step t therefore has the same rows, in the same order over the
ranks, at any number of ranks that divides the number of shards.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from qarm.errors import ConfigError, InputError
from qarm.lake import files as lake_files

if TYPE_CHECKING:
    import pyarrow as pa

_FOOTER_THREADS = 16


@dataclass(frozen=True)
class RowGroup:
    """A row group: its file, its number in the file, its number of rows."""

    file: str
    index: int
    rows: int


@dataclass(frozen=True)
class Block:
    """Row groups (by number in the plan) of one shard that are shuffled together."""

    shard: int
    number: int
    start: int
    """Number of the shard's rows before this block."""
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class ShardPlan:
    """Shards, their rows, and the steps of an epoch.

    Attributes:
        row_groups: row groups that have rows, in Petastorm's order.
        batch_size: rows per step and rank.
        world: number of ranks.
        shards: canonical shards, a multiple of ``world``.
        schema: Arrow schema of the first file.
    """

    row_groups: tuple[RowGroup, ...]
    batch_size: int
    world: int
    shards: int
    schema: pa.Schema

    @classmethod
    def from_files(
        cls,
        files: Sequence[str],
        columns: Sequence[str],
        *,
        batch_size: int,
        world: int,
        shards: int,
    ) -> ShardPlan:
        """Read the footers.

        Args:
            files: see ``EpochLoader``.
            columns: columns that every file must have.
            batch_size: rows per step and rank.
            world: number of ranks.
            shards: maximum number of canonical shards; halved while the table has fewer row
                groups, or the global batch is not a multiple of it.

        Raises:
            InputError: no files, a column that a file lacks, or too few row groups.
            ConfigError: the number of shards is not a multiple of the ranks.
        """
        if batch_size < 1 or world < 1 or shards < 1 or shards % world:
            raise ConfigError(
                f"shards ({shards}) must be a multiple of the ranks ({world}), "
                f"and the batch size per rank ({batch_size}) at least 1"
            )
        if not files:
            raise InputError("no Parquet files to read: the table, or the part asked for, is empty")
        ordered = sorted(files)
        if len(set(ordered)) < len(ordered):
            twice = sorted({f for f in ordered if ordered.count(f) > 1})
            raise InputError(
                f"files are listed twice, so their rows would be read twice: {twice[:3]}"
            )
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            footers = list(pool.map(_footer, ordered))
        for file, (names, _, _) in zip(ordered, footers, strict=True):
            missing = [c for c in columns if c not in names]
            if missing:
                raise InputError(f"{file} has no column {missing}; it has {sorted(names)}")
        row_groups = tuple(
            RowGroup(file, index, rows)
            for file, (_, counts, _) in zip(ordered, footers, strict=True)
            for index, rows in enumerate(counts)
            if rows > 0
        )
        asked = shards
        while shards > 1 and (len(row_groups) < shards or batch_size * world % shards):
            shards //= 2
        if not row_groups or shards % world:
            raise InputError(
                f"{len(row_groups)} row groups with rows in {len(files)} files and a global batch "
                f"of {batch_size * world} cannot feed {asked} shards on {world} ranks, even if the "
                f"shards are halved repeatedly; write the table with at least {asked} row groups "
                f"(better 3 x {asked}), make the batch a multiple of {asked}, or use fewer ranks"
            )
        return cls(row_groups, batch_size, world, shards, footers[0][2])

    @property
    def shard_batch(self) -> int:
        """Rows that a step takes from each shard."""
        return self.batch_size * self.world // self.shards

    def shards_of(self, rank: int) -> range:
        """Shards that ``rank`` reads."""
        count = self.shards // self.world
        return range(rank * count, (rank + 1) * count)

    @cached_property
    def _dealt(self) -> list[list[int]]:
        """Row groups of each shard; the largest come first, each to the shard with fewest rows."""
        order = sorted(range(len(self.row_groups)), key=lambda i: (-self.row_groups[i].rows, i))
        dealt: list[list[int]] = [[] for _ in range(self.shards)]
        fewest = [(0, shard) for shard in range(self.shards)]
        for number in order:
            rows, shard = fewest[0]
            dealt[shard].append(number)
            heapq.heapreplace(fewest, (rows + self.row_groups[number].rows, shard))
        return [sorted(numbers) for numbers in dealt]

    def members(self, shard: int) -> list[int]:
        """Numbers of the shard's row groups, in order."""
        return self._dealt[shard]

    def rows_of(self, shard: int) -> int:
        """Rows of the shard."""
        return sum(self.row_groups[i].rows for i in self.members(shard))

    @property
    def rows_per_rank(self) -> list[int]:
        """Rows that each rank reads per epoch."""
        return [sum(self.rows_of(s) for s in self.shards_of(r)) for r in range(self.world)]

    @property
    def steps(self) -> int:
        """Steps per epoch on every rank: those of the longest shard."""
        return max(-(-self.rows_of(s) // self.shard_batch) for s in range(self.shards))

    def blocks(
        self, shard: int, *, block_rows: int, generator: np.random.Generator | None
    ) -> list[Block]:
        """The shard's row groups in random order (in their own order without a generator), cut
        into blocks of at least ``block_rows`` rows.
        """
        order = np.array(self.members(shard))
        if generator is not None:
            generator.shuffle(order)
        blocks: list[Block] = []
        pending: list[int] = []
        start = rows = 0
        for number in order.tolist():
            pending.append(number)
            rows += self.row_groups[number].rows
            if rows >= block_rows:
                blocks.append(Block(shard, len(blocks), start, tuple(pending)))
                start, rows, pending = start + rows, 0, []
        if pending:
            blocks.append(Block(shard, len(blocks), start, tuple(pending)))
        return blocks

    def block_rows(self, block: Block) -> int:
        """Rows of the block."""
        return sum(self.row_groups[i].rows for i in block.row_groups)


def _footer(file: str) -> tuple[set[str], list[int], pa.Schema]:
    """Columns, rows of each row group, and Arrow schema of one file.

    Raises:
        InputError: the file is missing or is not a Parquet file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with lake_files.open_file(readable(file)) as source:
            metadata = parquet.read_metadata(source)
            schema = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read the Parquet footer of {file}: {error}") from error
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return set(schema.names), counts, schema


def readable(file: str) -> str:
    """``file`` as a plain path if it is local; Spark lists files as ``file:/...`` URIs in which
    characters such as blanks are percent-encoded.
    """
    import os
    from urllib.parse import unquote

    path = lake_files.local_path(file)
    if path is None:
        return file
    return path if os.path.exists(path) else unquote(path)
