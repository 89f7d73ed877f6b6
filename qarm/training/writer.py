"""Tables that ranks train on: random order, row groups of similar size, lists of one length.

Ranks distribute and shuffle row groups (see ``shards`` and ``loader``), so the writer decides how
well rows are mixed and how even the shards are. Each file is one row group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qarm.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from schemas.table import Table

#: Maximum bytes of a row group in memory. A reader holds two of each shard at once; smaller columns
#: would cost more time to open than to decode.
GROUP_BYTES = 32 << 20
#: Row groups per shard if there are enough rows: their order differs by epoch.
_A_SHARD = 3
_FEW_ROWS = 4_096
_WIDTHS = {"bigint": 8, "timestamp": 8, "double": 8, "int": 4, "float": 4, "date": 4, "boolean": 1}
_OTHER_WIDTH = 16


@dataclass(frozen=True)
class FixedList:
    """A list column of fixed length: the latest entries, padded on the left."""

    length: int
    padding: int | float = 0


def row_groups(rows: int, row_bytes: int, shards: int) -> int:
    """Number of row groups for about ``rows`` rows: a multiple of ``shards``, for even shards.

    Three per shard; fewer if they would have less than 4,096 rows, more if they would have over
    32 MB.
    """
    a_shard = -(-rows // shards)
    fewest = min(_A_SHARD, max(1, a_shard // _FEW_ROWS))
    return shards * max(fewest, -(-a_shard * row_bytes // GROUP_BYTES))


def row_bytes(table: Table, lists: Mapping[str, FixedList]) -> int:
    """Bytes of a row in memory, by type; an estimate for strings and lists of varying length."""
    total = 0
    for column in table.columns:
        kind = column.type.removeprefix("array<").removesuffix(">")
        length = lists[column.name].length if column.name in lists else 1
        total += length * _WIDTHS.get(kind, _OTHER_WIDTH)
    return total


def in_training_order(
    rows: DataFrame,
    table: Table,
    *,
    about_rows: int,
    shards: int,
    seed: int,
    lists: Mapping[str, FixedList] | None = None,
) -> DataFrame:
    """``rows`` of ``table``, partitioned and sorted as its files should be written.

    Rows are ordered by a hash of (seed, key), which also chooses the file: the same rows and seed
    give the same files, whatever the order and partitions of the input. Lists get equal lengths,
    and none is null, so that the loader can reshape Arrow's values to a matrix.

    Args:
        rows: the table's columns.
        table: its key identifies the rows; each of its partitions gets all the row groups.
        about_rows: rows of the largest partition; the number of row groups follows from it.
        shards: canonical shards that will read the table (``loader.shards``).
        seed: seed of the order.
        lists: list columns of fixed length.

    Raises:
        ConfigError: the table has no key.
    """
    from pyspark.sql import functions as F

    if not table.key:
        raise ConfigError(f"table {table.name} has no key to order its rows by")
    lists = lists or {}
    fixed = {name: _fixed(F.col(name), to) for name, to in lists.items()}
    groups = row_groups(about_rows, row_bytes(table, lists), shards)
    order = F.xxhash64(F.lit(seed), F.lit("order"), *table.key)
    return (
        rows.withColumns({**fixed, "__order": order})
        .repartition(groups, "__order")
        .sortWithinPartitions(*table.partition_by, "__order", *table.key)
        .drop("__order")
    )


def _fixed(column: Column, to: FixedList) -> Column:
    """The last ``to.length`` entries, padded on the left; only padding if the list is null."""
    from pyspark.sql import functions as F

    def padding(length: Column) -> Column:
        return F.array_repeat(F.lit(to.padding), length)

    size = F.coalesce(F.array_size(column), F.lit(0))
    entries = F.slice(column, F.greatest(size - to.length, F.lit(0)) + 1, to.length)
    return (
        F.when(size == 0, padding(F.lit(to.length)))
        .when(size == to.length, column)
        .when(size > to.length, entries)
        .otherwise(F.concat(padding(to.length - size), entries))
    )
