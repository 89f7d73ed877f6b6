"""Samples of items by hash: they depend on item and seed, not on the files of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import lists_to_matrix
from qarm.errors import InputError
from qarm.kernels.nearest import Floats

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def hash_of(seed: int) -> Column:
    """Hash of column item_id and ``seed``."""
    from pyspark.sql import functions as F

    return F.xxhash64(F.col("item_id"), F.lit(seed))


def sample_by_hash(
    items: DataFrame, rows: int, most: int, seed: int
) -> tuple[NDArray[np.int64], Floats]:
    """The ``most`` items of smallest hash, in the order of the hash.

    Args:
        items: columns item_id, item_idx, vector.
        rows: number of ``items``.
        most: maximum size of the sample.
        seed: of the hash.

    Returns:
        (m,) item_idx; (m, d) vectors.

    Raises:
        InputError: no items, or vectors of several lengths.
    """
    from pyspark.sql import functions as F

    if rows == 0:
        raise InputError(
            "no item has a vector, content and an event of the training part; codebooks are fitted "
            "on such items"
        )
    hashed = items.withColumn("hash", hash_of(seed)).select("hash", "item_idx", "vector")
    # A bound on the hash leaves about ``most`` rows to sort: four standard deviations more. In one
    # sample of 30,000 there are fewer, and all rows are sorted.
    share = (most + 4 * most**0.5) / rows
    bounded = hashed.where(F.col("hash") < int((share - 0.5) * 2.0**64)) if share < 1 else hashed
    table = bounded.toArrow()
    if share < 1 and len(table) < most:
        table = hashed.toArrow()
    order = np.lexsort((table["item_idx"].to_numpy(), table["hash"].to_numpy()))[:most]
    matrix = lists_to_matrix(table["vector"], "item_embeddings")[order]
    return table["item_idx"].to_numpy()[order].astype(np.int64), matrix
