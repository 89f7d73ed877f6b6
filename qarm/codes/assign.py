"""Codes of a frame of vectors by a frozen codebook: Spark tasks, Arrow in and Arrow out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qarm.codes.anchor_index import recall
from qarm.codes.codebook import Codebook, lists_to_matrix, matrix_to_lists
from qarm.lake.scan import map_files
from qarm.lake.tables import Lake, TableRef

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast
    from pyspark.sql import DataFrame

CODED = (
    "item_id string, item_idx bigint, content_hash string, residual_error float, "
    "rq array<int>, vq array<int>"
)
_FILE_COLUMNS = ("item_id", "item_idx", "content_hash", "vector", "encoder_version")
_RECALL_ROWS = 2000
"""Items that the recall of the approximate index is measured on."""


def assign_codes(
    vectors: DataFrame, codebook: Broadcast[Codebook], vq_k: int, probes: int | None = None
) -> DataFrame:
    """Codes of vectors, by ``mapInArrow``.

    The codebook is sent to each worker once and prepared once per process.

    Args:
        vectors: (item_id, item_idx, content_hash, vector).
        codebook: of the same dimensions.
        vq_k: length of a VQ code.
        probes: cells of the approximate index that vq searches; None: exact search.

    Returns:
        Columns of ``CODED``.
    """
    coder = partial(_code, codebook, vq_k, probes, None)
    return vectors.select("item_id", "item_idx", "content_hash", "vector").mapInArrow(coder, CODED)


def assign_files(
    lake: Lake,
    embeddings: TableRef,
    encoder: str,
    codebook: Broadcast[Codebook],
    vq_k: int,
    probes: int | None = None,
) -> DataFrame:
    """``assign_codes`` for all rows of one encoder, where tasks open the table's files themselves.

    For a table that qarm has written, so that its files have the columns of its schema.
    """
    coder = partial(_code, codebook, vq_k, probes, encoder)
    return map_files(lake, embeddings, _FILE_COLUMNS, coder, CODED)


def _code(
    broadcast: Broadcast[Codebook],
    vq_k: int,
    probes: int | None,
    encoder: str | None,
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Spark task: rows of ``CODED``; only those of ``encoder`` if it is given."""
    import pyarrow as pa
    import pyarrow.compute as pc

    codebook = broadcast.value
    for batch in batches:
        if encoder is not None:
            batch = batch.filter(pc.equal(batch["encoder_version"], encoder))
        if batch.num_rows == 0:
            continue
        x = lists_to_matrix(batch["vector"], "item_embeddings").astype(np.float32, copy=False)
        rq, left = codebook.rq(x)
        vq = codebook.vq(x, vq_k, probes=probes)
        yield pa.RecordBatch.from_arrays(
            [
                batch["item_id"],
                batch["item_idx"],
                batch["content_hash"],
                pa.array(left),
                matrix_to_lists(rq),
                matrix_to_lists(vq),
            ],
            names=["item_id", "item_idx", "content_hash", "residual_error", "rq", "vq"],
        )


def index_recall(
    codebook: Codebook, vectors: DataFrame, vq_k: int, probes: int
) -> tuple[float, int]:
    """Recall of the approximate index on the items of smallest hash; the number of these items."""
    from pyspark.sql import functions as F

    drawn = vectors.orderBy(F.xxhash64("item_id"), "item_id").limit(_RECALL_ROWS)
    x = lists_to_matrix(drawn.select("vector").toArrow()["vector"], "item_embeddings")
    x = x.astype(np.float32, copy=False)
    return recall(codebook.anchor_index(probes), x, vq_k), len(x)
