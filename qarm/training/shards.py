"""Which rank reads which row groups, in which order: pure functions of the Parquet footers.

The files' row groups are numbered as Petastorm numbers them: files in order of their URI, row
groups in file order. They are dealt out to *canonical shards* so that shards have like numbers of
rows; rank r reads ``shards / world`` consecutive shards. Each step takes the same number of rows
from every shard. With a fixed number of shards, step t therefore holds the same rows, in the same
order over the ranks, at any number of ranks that divides it; the config fixes the global batch.
One shard a rank is the default.
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
    """A row group: its file, its number in the file, its rows."""

    file: str
    index: int
    rows: int


@dataclass(frozen=True)
class Block:
    """Row groups (by number in the plan) of one shard that are shuffled together."""

    shard: int
    number: int
    start: int
    """Rows of the shard before this block."""
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class ShardPlan:
    """Shards, their rows, and the steps of an epoch.

    Attributes:
        row_groups: those with rows, in Petastorm's order.
        batch_size: rows a step and rank.
        world: ranks.
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
            columns: those that every file must have.
            batch_size: rows a step and rank.
            world: ranks.
            shards: canonical shards wanted; halved while the table has fewer row groups, or the
                global batch is not a multiple of them.

        Raises:
            InputError: no files, a column that a file lacks, or too few row groups.
            ConfigError: the shards are no multiple of the ranks.
        """
        if batch_size < 1 or world < 1 or shards < 1 or shards % world:
            raise ConfigError(
                f"shards ({shards}) must be a multiple of the ranks ({world}), "
                f"and the batch of a rank ({batch_size}) at least 1"
            )
        if not files:
            raise InputError("no Parquet files to read: the table, or the part asked for, is empty")
        ordered = sorted(files)
        if len(set(ordered)) < len(ordered):
            twice = sorted({f for f in ordered if ordered.count(f) > 1})
            raise InputError(f"files are listed twice, and rows would be too: {twice[:3]}")
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
                f"of {batch_size * world} cannot feed {asked} shards on {world} ranks, nor half as "
                f"many and so on; write the table with at least {asked} row groups (better 3 x "
                f"{asked}), make the batch a multiple of {asked}, or use fewer ranks"
            )
        return cls(row_groups, batch_size, world, shards, footers[0][2])

    @property
    def shard_batch(self) -> int:
        """Rows a step takes from each shard."""
        return self.batch_size * self.world // self.shards

    def shards_of(self, rank: int) -> range:
        """Shards that ``rank`` reads."""
        count = self.shards // self.world
        return range(rank * count, (rank + 1) * count)

    @cached_property
    def _dealt(self) -> list[list[int]]:
        """Numbers of each shard's row groups: the largest first, to the shard with fewest rows."""
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
        """Rows each rank reads in an epoch."""
        return [sum(self.rows_of(s) for s in self.shards_of(r)) for r in range(self.world)]

    @property
    def steps(self) -> int:
        """Steps an epoch has on every rank: those of the longest shard."""
        return max(-(-self.rows_of(s) // self.shard_batch) for s in range(self.shards))

    def blocks(
        self, shard: int, *, block_rows: int, generator: np.random.Generator | None
    ) -> list[Block]:
        """The shard's row groups in random order (as they are without a generator), cut into
        blocks of at least ``block_rows`` rows."""
        order = np.array(self.members(shard))
        if generator is not None:
            generator.shuffle(order)
        found: list[Block] = []
        pending: list[int] = []
        start = rows = 0
        for number in order.tolist():
            pending.append(number)
            rows += self.row_groups[number].rows
            if rows >= block_rows:
                found.append(Block(shard, len(found), start, tuple(pending)))
                start, rows, pending = start + rows, 0, []
        if pending:
            found.append(Block(shard, len(found), start, tuple(pending)))
        return found

    def block_rows(self, block: Block) -> int:
        """Rows of the block."""
        return sum(self.row_groups[i].rows for i in block.row_groups)


def _footer(file: str) -> tuple[set[str], list[int], pa.Schema]:
    """Columns, rows of each row group, and Arrow schema of one file.

    Raises:
        InputError: the file is missing or no Parquet.
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
    """``file`` as a plain path if it is local; Spark lists files as ``file:/...`` URIs, with
    characters like blanks percent-encoded."""
    import os
    from urllib.parse import unquote

    path = lake_files.local_path(file)
    if path is None:
        return file
    return path if os.path.exists(path) else unquote(path)
