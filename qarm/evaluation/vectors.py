"""The vector spaces that are compared: aligned, raw by modality, raw combined, ID vectors.

One wide row per item holds its vector of each table. A batch of such rows becomes one unit matrix
per space, on the driver (items of test pairs) and in tasks (the whole catalogue) alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ALIGNED, ID_VECTORS, CHANCE = "aligned", "id_vectors", "chance"
RAW, CONCAT = "raw", "raw:concat"
_RAW = "raw:"


@dataclass(frozen=True)
class Space:
    """Unit vectors of a batch of items in one space."""

    matrix: NDArray[np.float32]
    """(rows, d) unit rows; zero if the item has no vector."""
    there: NDArray[np.bool_]
    """(rows,) whether the item has a vector. A zero vector, without a direction, does not count."""


@dataclass(frozen=True)
class Spaces:
    """How wide rows become unit vectors; small, broadcast to the tasks."""

    centres: dict[str, NDArray[np.float32]]
    """Column -> (d,) mean that is subtracted before normalisation; zeros: none."""

    @property
    def names(self) -> list[str]:
        """Spaces in the order of the columns; then ``raw:concat`` if there are several raw ones."""
        raw = [c for c in self.centres if c.startswith(_RAW)]
        return [*self.centres, *([CONCAT] if len(raw) > 1 else [])]

    def of(self, rows: pa.RecordBatch | pa.Table) -> dict[str, Space]:
        """The rows in every space.

        ``raw:concat`` concatenates the centred unit vectors of all modalities, with zeros for a
        missing one, and normalises the result.
        """
        spaces: dict[str, Space] = {}
        for column, centre in self.centres.items():
            matrix, there = to_matrix(rows[column], len(centre), column)
            matrix[there] -= centre
            spaces[column] = _unit(matrix, there)
        raw = [space for name, space in spaces.items() if name.startswith(_RAW)]
        if len(raw) > 1:
            there = np.any([space.there for space in raw], axis=0)
            spaces[CONCAT] = _unit(np.hstack([space.matrix for space in raw]), there)
        return spaces


def _unit(matrix: NDArray[np.float32], there: NDArray[np.bool_]) -> Space:
    norms = np.linalg.norm(matrix, axis=1)
    there = there & (norms > 1e-12)
    matrix[~there] = 0
    matrix[there] /= norms[there, None]
    return Space(matrix, there)


def to_matrix(
    column: pa.Array | pa.ChunkedArray, dimensions: int, name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A list column as (matrix (rows, dimensions), mask (rows,) of rows that are not null).

    Null rows of the matrix are zero.

    Raises:
        InputError: a vector has another length.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    there = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.drop_null().flatten().to_numpy(zero_copy_only=False)
    if len(values) != there.sum() * dimensions:
        raise InputError(
            f"vectors of {name} must all have {dimensions} numbers; seen {len(values)} numbers in "
            f"{there.sum()} vectors"
        )
    matrix = np.zeros((len(column), dimensions), np.float32)
    matrix[there] = values.reshape(-1, dimensions)
    return matrix, there


def vector_columns(
    aligned: DataFrame,
    encoder_version: str | None,
    id_vectors: DataFrame | None,
    features: DataFrame | None,
    backbones: Mapping[str, str],
) -> dict[str, DataFrame]:
    """Column -> rows (item_idx, vector) of every space there are vectors for.

    Args:
        aligned: the table item_embeddings.
        encoder_version: the version that embed-catalog has written last, if it has run.
        id_vectors: the table id_vectors, or None.
        features: the table item_features, or None.
        backbones: modality -> backbone whose features the encoder was trained on.

    Raises:
        InputError: item_embeddings has several encoder versions, and the last one is not among
            them.
    """
    from pyspark.sql import functions as F

    columns = {ALIGNED: _of_one_encoder(aligned, encoder_version)}
    if id_vectors is not None:
        columns[ID_VECTORS] = id_vectors
    if features is not None:
        rows = features.select("modality", "backbone").distinct().collect()
        known = dict(sorted(tuple(row) for row in rows))  # the last backbone of each modality
        for modality, last in known.items():
            backbone = F.col("backbone").eqNullSafe(backbones.get(modality, last))
            columns[_RAW + modality] = features.where(
                F.col("modality").eqNullSafe(modality) & backbone
            )
    return columns


def _of_one_encoder(table: DataFrame, latest: str | None) -> DataFrame:
    from pyspark.sql import functions as F

    versions = sorted(r[0] for r in table.select("encoder_version").distinct().collect())
    if len(versions) > 1 and latest not in versions:
        raise InputError(
            f"item_embeddings has vectors of several encoders ({versions}), and none of them is "
            f"the one that embed-catalog used last ({latest}); keep the vectors of one encoder"
        )
    version = latest if latest in versions else (versions or [""])[0]
    return table.where(F.col("encoder_version").eqNullSafe(F.lit(version)))


def wide_rows(items: DataFrame, columns: Mapping[str, DataFrame]) -> DataFrame:
    """``items`` (item_idx, ...) with one nullable vector column per entry of ``columns``."""
    from pyspark.sql import functions as F

    for name, vectors in columns.items():
        one = vectors.select("item_idx", F.col("vector").cast("array<float>").alias(name))
        items = items.join(one, "item_idx", "left")
    return items


def fit_spaces(rows: DataFrame) -> Spaces:
    """Number of dimensions of each column, and for raw ones the mean over rows ``in_training``.

    Each task returns one small row per column, independent of the size of the catalogue.

    Raises:
        InputError: the vectors of a column differ in length.
    """
    columns = [c for c in rows.columns if c in (ALIGNED, ID_VECTORS) or c.startswith(_RAW)]

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _column_sums(batches, columns)

    sums: dict[str, NDArray[np.float64]] = {}
    counts = dict.fromkeys(columns, 0)
    partial = rows.select("in_training", *columns).mapInArrow(
        task, "name string, rows bigint, total array<double>"
    )
    for row in partial.collect():
        total = np.array(row["total"])
        if row["name"] in sums and len(sums[row["name"]]) != len(total):
            raise InputError(
                f"vectors of {row['name']} must have the same length; seen {len(total)} and "
                f"{len(sums[row['name']])}"
            )
        sums[row["name"]] = sums.get(row["name"], np.zeros(len(total))) + total
        counts[row["name"]] += row["rows"]
    centres = {}
    for name in (c for c in columns if c in sums):  # a column without any vector is not a space
        raw = name.startswith(_RAW) and counts[name]
        centres[name] = (sums[name] / counts[name] if raw else sums[name] * 0).astype(np.float32)
    return Spaces(centres)


def _column_sums(
    batches: Iterable[pa.RecordBatch], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    totals: dict[str, NDArray[np.float64]] = {}
    counts = dict.fromkeys(columns, 0)
    for batch in batches:
        training = batch["in_training"].to_numpy(zero_copy_only=False)
        for name in columns:
            there = batch[name].drop_null()
            if not len(there):
                continue
            matrix, valid = to_matrix(batch[name], len(there[0]), name)
            chosen = matrix[training & valid].astype(np.float64)
            totals[name] = totals.get(name, np.zeros(matrix.shape[1])) + chosen.sum(axis=0)
            counts[name] += len(chosen)
    if totals:
        yield pa.RecordBatch.from_pydict(
            {
                "name": list(totals),
                "rows": [counts[name] for name in totals],
                "total": [total.tolist() for total in totals.values()],
            }
        )
