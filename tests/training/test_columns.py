"""Arrow columns as arrays that torch takes."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
import torch

from qarm.errors import InputError
from qarm.training.columns import check_types, rows_of, to_arrays

LIST = pa.list_(pa.float32())


def arrays_of(column: pa.Array | pa.ChunkedArray, length: int | None = None) -> np.ndarray:
    lengths = {} if length is None else {"x": length}
    return to_arrays(pa.table({"x": column}), lengths, "part-0, row group 3")["x"]


@pytest.mark.parametrize(
    ("column", "expected", "dtype"),
    [
        (pa.array([1, 2], pa.int32()), [1, 2], "int32"),
        (pa.array([1.5, -2.0], pa.float32()), [1.5, -2.0], "float32"),
        (pa.array([True, False]), [True, False], "bool"),
        (pa.array([0, 255], pa.uint8()), [0, 255], "uint8"),
        # torch has no arithmetic for wider unsigned integers.
        (pa.array([0, 65_535], pa.uint16()), [0, 65_535], "int64"),
        (pa.array([0, 2**32 - 1], pa.uint32()), [0, 2**32 - 1], "int64"),
        (pa.array([dt.datetime(1970, 1, 2)], pa.timestamp("us")), [86_400_000_000], "int64"),
        (pa.array([dt.date(1970, 1, 3)], pa.date32()), [2], "int32"),
        (pa.array([dt.date(1970, 1, 3)], pa.date64()), [172_800_000], "int64"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_numbers(column: pa.Array, expected: list, dtype: str) -> None:
    check_types(pa.schema([("x", column.type)]), ["x"], {})
    array = arrays_of(column)
    assert array.dtype == dtype
    assert array.tolist() == expected
    assert torch.from_numpy(array.copy()).tolist() == expected


@pytest.mark.parametrize("kind", [LIST, pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)])
def test_lists_become_a_matrix(kind: pa.DataType) -> None:
    check_types(pa.schema([("x", kind)]), ["x"], {"x": 2})
    array = arrays_of(pa.array([[1, 2], [3, 4], [5, 6]], kind), 2)
    assert array.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert array.dtype == np.float32


def test_chunks_and_slices() -> None:
    """A slice of a list column still refers to all values of the column."""
    first = pa.array([[9, 9], [1, 2]], LIST).slice(1)
    second = pa.array([[3, 4], [5, 6], [9, 9]], LIST).slice(0, 2)
    both = pa.chunked_array([first, second])
    assert arrays_of(both, 2).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert arrays_of(pa.chunked_array([first]), 2).tolist() == [[1, 2]]


def test_no_rows() -> None:
    table = pa.schema([("x", pa.int64()), ("v", LIST)]).empty_table()
    arrays = to_arrays(table, {"v": 3}, "part-0")
    assert rows_of(arrays) == 0
    assert arrays["v"].shape == (0, 3)
    no_chunk = pa.table({"x": pa.chunked_array([], pa.int64())})
    assert to_arrays(no_chunk, {}, "part-0")["x"].shape == (0,)


def test_nulls_name_the_column_and_the_place() -> None:
    with pytest.raises(InputError, match="column 'x' has 2 nulls in part-0, row group 3"):
        arrays_of(pa.array([None, 1, None], pa.int64()))
    with pytest.raises(InputError, match="column 'x' has 1 nulls"):
        arrays_of(pa.array([[1, 2], None], LIST), 2)
    with pytest.raises(InputError, match="list column 'x' has null values"):
        arrays_of(pa.array([[1, 2], [3, None]], LIST), 2)


def test_lists_of_another_length_name_the_row() -> None:
    lists = pa.array([[1, 2], [1], [1, 2, 3, 4]], LIST)
    with pytest.raises(InputError, match=r"row 1 of part-0.* has 1 .shortest 1, longest 4"):
        arrays_of(lists, 2)
    # As many values as expected over all rows, but not in each row.
    with pytest.raises(InputError, match=r"row 0 of .* has 1"):
        arrays_of(pa.array([[1], [1, 2, 3]], LIST), 2)


@pytest.mark.parametrize(
    ("kind", "lengths", "message"),
    [
        (pa.string(), {}, "column 'x' is string; tensors can be made of numbers"),
        (pa.list_(pa.string()), {"x": 2}, "Omit it, or convert it"),
        (pa.struct([("a", pa.int64())]), {}, "column 'x' is struct"),
        (LIST, {}, "needs its length in list_lengths {}"),
        (LIST, {"y": 2}, "needs its length in list_lengths {'y': 2}"),
        (pa.int64(), {"x": 2}, "is not a list but is named in list_lengths {'x': 2}"),
    ],
)
def test_types_that_cannot_become_tensors(kind, lengths, message) -> None:
    schema = pa.schema([("x", kind), ("unread", pa.string())])
    with pytest.raises(InputError) as raised:
        check_types(schema, ["x"], lengths)
    assert message in str(raised.value)
