"""Arrow columns as NumPy arrays for torch: vectors, and matrices from lists of fixed length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.errors import InputError

Arrays = dict[str, NDArray[Any]]
"""Column -> (rows,) or (rows, length)."""


def rows_of(arrays: Arrays) -> int:
    """Number of rows of the columns."""
    return len(next(iter(arrays.values())))


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_date(kind)
    )


def check_types(schema: pa.Schema, columns: Sequence[str], lengths: Mapping[str, int]) -> None:
    """Check that every column can become a tensor.

    Raises:
        InputError: a column of another type, or a list column whose length is not given.
    """
    for column in columns:
        kind = schema.field(column).type
        element = kind.value_type if _is_list(kind) else kind
        if not _is_number(element):
            raise InputError(
                f"column {column!r} is {kind}; tensors can be made of numbers, booleans, dates and "
                "lists of them. Omit it, or convert it to a number when the table is written"
            )
        if _is_list(kind) != (column in lengths):
            need = "needs its length in" if _is_list(kind) else "is not a list but is named in"
            raise InputError(f"column {column!r} ({kind}) {need} list_lengths {dict(lengths)}")


def to_arrays(table: pa.Table, lengths: Mapping[str, int], where: str) -> Arrays:
    """Columns of ``table`` as arrays, lists by one reshape of their values.

    Args:
        lengths: length of each list column.
        where: the file and row group, for errors.

    Raises:
        InputError: a null, or a list of another length.
    """
    arrays: Arrays = {}
    for name in table.column_names:
        column = table.column(name)
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # it has no chunk
            array = pa.array([], column.type)
        if array.null_count:
            raise InputError(
                f"column {name!r} has {array.null_count} nulls in {where}; fill them when the "
                "table is written"
            )
        if name not in lengths:
            arrays[name] = _numbers(array)
            continue
        length = lengths[name]
        values = array.flatten()
        seen = array.value_lengths().to_numpy(zero_copy_only=False)
        if (seen != length).any():
            row = int(np.flatnonzero(seen != length)[0])
            raise InputError(
                f"list column {name!r} should have {length} values in each row; row {row} of "
                f"{where} has {seen[row]} (shortest {seen.min()}, longest {seen.max()}). Pad it "
                "to a fixed length when the table is written"
            )
        if values.null_count:
            raise InputError(f"list column {name!r} has null values in {where}")
        arrays[name] = _numbers(values).reshape(len(array), length)
    return arrays


def _numbers(array: pa.Array) -> NDArray[Any]:
    """Values in a type that torch has; timestamps and dates as integers."""
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        array = array.view(pa.int64())
    elif pa.types.is_date32(kind):
        array = array.view(pa.int32())
    elif pa.types.is_unsigned_integer(kind) and kind.bit_width > 8:
        array = array.cast(pa.int64())
    return np.asarray(array.to_numpy(zero_copy_only=False))
