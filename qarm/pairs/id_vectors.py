"""ID embeddings of items: implicit ALS of Spark MLlib on the mining period."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qarm.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config.pairs import IdVectors

#: MLlib's ALS takes 32-bit ids.
_LARGEST_ID = 2**31 - 1
#: Ratings per block of users or items. A function of the data, not of the cluster, because the
#: initial factors depend on the blocks.
_RATINGS_PER_BLOCK = 1_000_000
_FEWEST_BLOCKS = 4


def train_id_vectors(events: DataFrame, config: IdVectors, seed: int) -> DataFrame:
    """Behaviour vectors of all items in ``events``: (item_idx bigint, vector array<float>).

    Implicit-feedback matrix factorisation (Hu, Koren, Volinsky 2008) with confidence
    1 + alpha * sum of a user's event weights on an item. Vectors are not normalised.

    Args:
        events: user_idx, item_idx, weight; one row per event.
        config: rank, iterations, regularisation, alpha.
        seed: seed of the initial factors.

    Raises:
        InputError: there are no events, or an index does not fit into MLlib's 32-bit ids.
    """
    from pyspark.ml.recommendation import ALS
    from pyspark.sql import functions as F

    from qarm.pairs.topk import exact_sum

    ratings = events.groupBy("user_idx", "item_idx").agg(exact_sum("weight").alias("weight"))
    row = ratings.agg(
        F.count("*").alias("rows"),
        F.max("user_idx").alias("user"),
        F.max("item_idx").alias("item"),
    ).first()
    if row is None or not row["rows"]:
        raise InputError(
            "ID vectors: there are no positive events to learn from; check log.labels, "
            "log.positive and the split"
        )
    for kind in ("user", "item"):
        if row[kind] > _LARGEST_ID:
            raise InputError(
                f"ID vectors: {kind}_idx goes up to {row[kind]}, MLlib's ALS takes 32-bit ids up "
                f"to {_LARGEST_ID}; provide your own vectors (external.tables.id_vectors)"
            )
    blocks = max(_FEWEST_BLOCKS, -(-row["rows"] // _RATINGS_PER_BLOCK))
    # A fixed order of the rows, so that sums in the normal equations are repeatable.
    ordered = ratings.select(
        F.col("user_idx").cast("int"), F.col("item_idx").cast("int"), "weight"
    ).repartition(blocks, "user_idx")
    ordered = ordered.sortWithinPartitions("user_idx", "item_idx")
    als = ALS(
        rank=config.rank,
        maxIter=config.iterations,
        regParam=config.regularization,
        alpha=config.alpha,
        implicitPrefs=True,
        userCol="user_idx",
        itemCol="item_idx",
        ratingCol="weight",
        seed=seed,
        numUserBlocks=blocks,
        numItemBlocks=blocks,
    )
    return als.fit(ordered).itemFactors.select(
        F.col("id").cast("bigint").alias("item_idx"),
        F.col("features").cast("array<float>").alias("vector"),
    )
