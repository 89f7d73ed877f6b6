"""Which rank reads which row groups, in which order: pure functions of the Parquet footers.

The files' row groups are numbered as Petastorm numbers them: files in order of their URI, row
groups in file order. Row group i belongs to shard ``i % shards``; rank r reads ``shards / world``
consecutive shards. Each step takes the same number of rows from every shard. With a fixed number
of shards (any multiple of the ranks), step t therefore holds the same rows, in the same order over
the ranks, at any number of ranks that divides it. One shard a rank is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
        shards: int | None = None,
    ) -> ShardPlan:
        """Read the footers.

        Raises:
            InputError: no files, a column that a file lacks, or fewer row groups than shards.
            ConfigError: shards is no multiple of world, or does not divide the global batch.
        """
        shards = world if shards is None else shards
        if batch_size < 1 or world < 1 or shards < 1 or shards % world:
            raise ConfigError(
                f"shards ({shards}) must be a multiple of the ranks ({world}), "
                f"and the batch of a rank ({batch_size}) at least 1"
            )
        if batch_size * world % shards:
            raise ConfigError(
                f"the global batch ({batch_size} x {world} ranks) must be a multiple of the "
                f"shards ({shards})"
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
        if len(row_groups) < shards:
            raise InputError(
                f"{len(row_groups)} row groups with rows in {len(files)} files cannot feed "
                f"{shards} shards ({world} ranks); write the table with at least {shards} row "
                f"groups (better 3 x {shards}), or use fewer ranks"
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

    def members(self, shard: int) -> range:
        """Numbers of the shard's row groups."""
        return range(shard, len(self.row_groups), self.shards)

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
