"""The vector spaces that are compared: aligned, raw by modality, raw together, ID embeddings.

One wide row an item holds its vector in each table; a batch of such rows becomes a unit matrix a
space, the same way on the driver (items of test pairs) and in tasks (the whole catalogue).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

ALIGNED, ID_VECTORS, CHANCE = "aligned", "id_vectors", "chance"
RAW, CONCAT = "raw", "raw:concat"
_RAW = "raw:"


@dataclass(frozen=True)
class Space:
    """Unit vectors of a batch of items in one space."""

    matrix: NDArray[np.float32]
    """(rows, d) unit rows; zero where the item has no vector."""
    there: NDArray[np.bool_]
    """(rows,) whether the item has one. A zero vector has no direction: it is none."""


@dataclass(frozen=True)
class Spaces:
    """How wide rows become unit vectors; small, travels to the tasks."""

    centres: dict[str, NDArray[np.float32]]
    """Column -> (d,) what is taken off before normalising; zeros: nothing."""

    @property
    def names(self) -> list[str]:
        """Spaces in the order of the columns; ``raw:concat`` where there are several raw ones."""
        raw = [c for c in self.centres if c.startswith(_RAW)]
        return [*self.centres, *([CONCAT] if len(raw) > 1 else [])]

    def of(self, rows: pa.RecordBatch | pa.Table) -> dict[str, Space]:
        """The rows in every space.

        ``raw:concat`` sets the centred unit vectors of all modalities side by side, a zero block
        for a missing one, and normalises the whole.
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
    """A list column as ((rows, dimensions), rows that are not null); null rows are zero.

    Raises:
        InputError: vectors of another length.
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


def wide_rows(context: Context, items: DataFrame) -> DataFrame:
    """``items`` (item_idx, ...) with a nullable vector column a space; rows stay as they are."""
    from pyspark.sql import functions as F

    columns = {ALIGNED: _aligned(context)}
    if context.find(ID_VECTORS):
        columns[ID_VECTORS] = context.table(ID_VECTORS)
    for modality, backbone in _raw_modalities(context).items():
        features = context.table("item_features").where(F.col("modality").eqNullSafe(modality))
        columns[_RAW + modality] = features.where(F.col("backbone").eqNullSafe(backbone))
    for name, vectors in columns.items():
        one = vectors.select("item_idx", F.col("vector").cast("array<float>").alias(name))
        items = items.join(one, "item_idx", "left")
    return items


def _aligned(context: Context) -> DataFrame:
    from pyspark.sql import functions as F

    table = context.table("item_embeddings")
    versions = sorted(r[0] for r in table.select("encoder_version").distinct().collect())
    latest = str(context.facts("embed-catalog").get("encoder_version"))
    if len(versions) > 1 and latest not in versions:
        raise InputError(
            f"item_embeddings has vectors of several encoders ({versions}) and embed-catalog has "
            "written none of them; keep one"
        )
    version = latest if latest in versions else (versions or [""])[0]
    return table.where(F.col("encoder_version").eqNullSafe(version))


def _raw_modalities(context: Context) -> dict[str, str]:
    """Modality -> the backbone whose features the encoder was trained on."""
    if not context.find("item_features"):
        return {}
    rows = context.table("item_features").select("modality", "backbone").distinct().collect()
    found: dict[str, list[str]] = {}
    for modality, backbone in sorted(tuple(row) for row in rows):
        found.setdefault(modality, []).append(backbone)
    used = context.facts("train-alignment").get("backbones", {})
    return {m: used.get(m, backbones[-1]) for m, backbones in found.items()}


def fit(rows: DataFrame) -> Spaces:
    """Dimensions of each column, and for raw ones the mean over rows with ``in_training``.

    One small row a task comes back, whatever the size of the catalogue.
    """
    columns = [c for c in rows.columns if c in (ALIGNED, ID_VECTORS) or c.startswith(_RAW)]

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _column_sums(batches, columns)

    sums: dict[str, NDArray[np.float64]] = {}
    counts = dict.fromkeys(columns, 0)
    found = rows.select("in_training", *columns).mapInArrow(
        task, "name string, rows bigint, total array<double>"
    )
    for row in found.collect():
        total = np.array(row["total"])
        if row["name"] in sums and len(sums[row["name"]]) != len(total):
            raise InputError(
                f"vectors of {row['name']} must have one length; seen {len(total)} and "
                f"{len(sums[row['name']])}"
            )
        sums[row["name"]] = sums.get(row["name"], np.zeros(len(total))) + total
        counts[row["name"]] += row["rows"]
    centres = {}
    for name in (c for c in columns if c in sums):  # a column without any vector is no space
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
