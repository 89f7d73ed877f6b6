"""The user's own safetensors files: vectors, or a codebook, as rows of our tables.

A safetensors file consists of eight bytes (the header's length), a JSON header (name -> dtype,
shape and offsets), and the numbers in row-major order. Each Spark task reads its own rows only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.errors import InputError
from qarm.lake import files

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

SUFFIX = ".safetensors"
#: Tables that can be read from such a file.
TABLES = ("item_embeddings", "codebooks")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
#: Bytes of one number, for all types of the format.
_WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_TASK_BYTES = 64 << 20


@dataclass(frozen=True)
class Tensor:
    """Place of a tensor in its file."""

    uri: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte."""

    def rows(self, file: IO[bytes], first: int, last: int) -> NDArray[Any]:
        """Rows ``first`` to ``last`` (exclusive)."""
        dtype = np.dtype(_DTYPES[self.dtype])
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        file.seek(self.start + first * width * dtype.itemsize)
        content = file.read((last - first) * width * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(last - first, *self.shape[1:])


def read_header(uri: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of the file, and its metadata.

    Raises:
        InputError: not a safetensors file, or a truncated one.
    """
    try:
        with files.open_file(uri) as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size < 100 << 20:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
            there = file.seek(0, 2) - 8 - size
        metadata = header.pop("__metadata__", {})
        tensors = {
            name: Tensor(
                uri,
                name,
                about["dtype"],
                tuple(about["shape"]),
                8 + size + about["data_offsets"][0],
            )
            for name, about in header.items()
        }
        places = {name: tuple(about["data_offsets"]) for name, about in header.items()}
        _check_layout(tensors, places, there)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{uri} is not a safetensors file: {error}") from error
    if cut := [name for name, (_, end) in places.items() if end > there]:
        raise InputError(f"{uri}: the file ends within tensor {cut[0]}; copy it again")
    return tensors, metadata


def _check_layout(
    tensors: Mapping[str, Tensor], places: Mapping[str, tuple[int, int]], there: int
) -> None:
    """Raise ValueError unless the tensors follow one another without gaps, each of its size.

    The rules of the format's reference implementation; a file that is too short is left to the
    caller, and one that is too long is refused.
    """
    expected = 0
    for name, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        tensor = tensors[name]
        if tensor.dtype not in _WIDTHS:
            raise ValueError(f"tensor {name} is of the unknown type {tensor.dtype}")
        if min(tensor.shape, default=0) < 0:
            raise ValueError(f"tensor {name} has the shape {tensor.shape}")
        size = math.prod(tensor.shape) * _WIDTHS[tensor.dtype]
        if (start, end) != (expected, expected + size):
            raise ValueError(
                f"tensor {name} of type {tensor.dtype} and shape {tensor.shape} should be at bytes "
                f"{expected} to {expected + size} of the data, its header says {start} to {end}"
            )
        expected = end
    if there > expected:
        raise ValueError(f"{there - expected} bytes follow after the last tensor")


def read_tensors(spark: SparkSession, uri: str, table: str) -> DataFrame:
    """Rows of ``table`` (one of ``TABLES``) from the file at ``uri``.

    ``codebooks``: tensors as ``Codebook.from_bytes`` reads them. ``item_embeddings``: ``vector``
    (n, d); optionally ``item_id`` (n,) integers, without which the row numbers "0", "1", ... are
    the ids; optionally ``encoder_version`` in the metadata.

    Raises:
        InputError: another table, not a safetensors file, or missing or unsuitable tensors.
    """
    if table == "codebooks":
        return _codebook(spark, uri)
    if table == "item_embeddings":
        return _vectors(spark, uri)
    raise InputError(
        f"{uri}: {' and '.join(TABLES)} can be read from a safetensors file, {table} cannot; "
        "bring a Delta table or Parquet files"
    )


def _codebook(spark: SparkSession, uri: str) -> DataFrame:
    from pyspark.sql import functions as F

    from qarm.codes.codebook import Codebook

    with files.open_file(uri) as file:
        rows = Codebook.from_bytes(file.read(), uri).to_rows()
    known = F.when(F.col("item_idx") >= 0, F.col("item_idx"))  # -1: not an item of this lake
    return spark.createDataFrame(rows).withColumn("item_idx", known)


def _vectors(spark: SparkSession, uri: str) -> DataFrame:
    from pyspark.sql import functions as F

    tensors, metadata = read_header(uri)
    vector, ids = tensors.get("vector"), tensors.get("item_id")
    if vector is None or len(vector.shape) != 2 or vector.dtype not in ("F64", "F32", "F16"):
        seen = {name: (t.dtype, t.shape) for name, t in tensors.items()}
        raise InputError(
            f"{uri}: expected a tensor named vector of shape (items, dimensions) and type F32, F16 "
            f"or F64, seen {seen}"
        )
    n, d = vector.shape
    if ids is not None and (ids.shape != (n,) or ids.dtype not in ("I64", "I32")):
        raise InputError(
            f"{uri}: expected a tensor item_id of shape ({n},) and type I64 or I32, one for each "
            f"row of vector, seen {ids.dtype} {ids.shape}; bring ids that are text as Parquet"
        )
    tasks = max(1, -(-n * d * 4 // _TASK_BYTES))
    rows = spark.range(0, n, 1, tasks).mapInArrow(
        _reader(vector, ids), "item_id string, vector array<float>"
    )
    if "encoder_version" in metadata:
        rows = rows.withColumn("encoder_version", F.lit(metadata["encoder_version"]))
    return rows


def _reader(
    vector: Tensor, ids: Tensor | None
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        with files.open_file(vector.uri) as file:
            for batch in batches:
                if batch.num_rows == 0:
                    continue
                places = batch.column(0).to_numpy()  # a range, ascending
                first, last = int(places[0]), int(places[-1]) + 1
                names = places if ids is None else ids.rows(file, first, last)
                values = vector.rows(file, first, last).astype(np.float32).reshape(-1)
                offsets = np.arange(last - first + 1, dtype=np.int32) * vector.shape[1]
                lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
                yield pa.RecordBatch.from_arrays(
                    [pa.array(names).cast(pa.string()), lists], names=["item_id", "vector"]
                )

    return read
