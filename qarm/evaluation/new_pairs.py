"""Test pairs of new-pair Recall@k: what behaviour of the test period says and training did not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qarm.ingest.parts import with_part

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

U2I, SWING = "u2i", "swing"


@dataclass(frozen=True)
class TestPairs:
    """Distinct test pairs of one source; bounded by ``evaluation.max_pairs``, so on the driver."""

    __test__ = False  # no test class

    trigger: NDArray[np.int64]
    """(pairs,) item_idx."""
    target: NDArray[np.int64]
    """(pairs,) item_idx."""
    warm: NDArray[np.bool_]
    """(pairs,) both items occur in a training pair."""
    group: NDArray[np.int64]
    """(pairs,) hash group of the trigger, for the jackknife."""
    mined: int = 0
    """Distinct pairs before any was removed."""
    dropped: dict[str, int] = field(default_factory=dict)
    """known_from_training, over_max_pairs."""

    def __len__(self) -> int:
        return len(self.trigger)


def mine(context: Context) -> dict[str, TestPairs]:
    """Test pairs by source: User2Item and Swing.

    User2Item: targets are positive test events; the trigger is chosen by the training period's ID
    vectors in the user's window of latest strictly earlier positives of any part, without a
    similarity floor. Swing: mined from the positives of the test part alone with the settings of
    ``pairs.swing``, the ``evaluation.swing_top`` best of each trigger. A pair counts once, however
    many events are behind it. Pairs that training knows in either direction are removed.
    """
    from pyspark.sql import functions as F

    from qarm.pairs.swing import swing
    from qarm.pairs.user2item import user2item

    config = context.config
    events = with_part(
        context.table("interactions").where("positive"), context.table("event_splits")
    ).select("user_idx", "item_idx", "ts", "weight", "part")
    known = _known(context)
    found: dict[str, TestPairs] = {}
    if context.find("id_vectors"):
        rows = user2item(
            events.withColumn("is_target", F.col("part") == "test").drop("part"),
            context.table("id_vectors").select("item_idx", "vector"),
            config.pairs.u2i.window,
            -1.0,
        )
        found[U2I] = _new(context, rows, known)
    test = events.where(F.col("part") == "test").drop("part")
    best = config.pairs.swing.model_copy(update={"top_k": config.evaluation.swing_top})
    found[SWING] = _new(context, swing(test, best, config.pairs.seed), known)
    return found


def _known(context: Context) -> DataFrame:
    """(trigger, target) of training, both directions, distinct.

    From the sources that the encoder can have been trained on: User2Item and Swing, those that
    ``alignment.sources`` names, and the user's own.
    """
    from pyspark.sql import functions as F

    sources = sorted({U2I, SWING, "user", *context.config.alignment.sources})
    pairs = context.table("item_pairs").where(F.col("source").isin(sources))
    one = pairs.select("trigger", "target")
    other = pairs.select(F.col("target").alias("trigger"), F.col("trigger").alias("target"))
    return one.unionByName(other).distinct()


def _new(context: Context, pairs: DataFrame, known: DataFrame) -> TestPairs:
    from pyspark.sql import functions as F

    limit = context.config.evaluation.max_pairs
    mined = pairs.select("trigger", "target").where("trigger <> target").distinct()
    marked = mined.join(known.withColumn("known", F.lit(True)), ["trigger", "target"], "left")
    marked = marked.withColumn("known", F.coalesce("known", F.lit(False))).persist()
    row = marked.agg(F.count("*").alias("mined"), F.count_if("known").alias("known")).first()
    assert row is not None
    items = known.select(F.col("trigger").alias("item")).distinct()
    new = marked.where(~F.col("known")).select("trigger", "target")
    for side in ("trigger", "target"):
        seen = items.select(F.col("item").alias(side), F.lit(True).alias(f"{side}_seen"))
        new = new.join(seen, side, "left")
    new = new.select(
        "trigger",
        "target",
        F.coalesce(F.col("trigger_seen") & F.col("target_seen"), F.lit(False)).alias("warm"),
        F.pmod(F.xxhash64("trigger"), F.lit(context.config.evaluation.groups)).alias("group"),
    )
    if row["mined"] - row["known"] > limit:
        new = new.orderBy(F.xxhash64("trigger", "target"), "trigger", "target").limit(limit)
    table = new.toArrow().sort_by([("trigger", "ascending"), ("target", "ascending")])
    marked.unpersist()
    return TestPairs(
        trigger=table["trigger"].to_numpy(),
        target=table["target"].to_numpy(),
        warm=table["warm"].to_numpy(),
        group=table["group"].to_numpy(),
        mined=row["mined"],
        dropped={
            "known_from_training": row["known"],
            "over_max_pairs": row["mined"] - row["known"] - table.num_rows,
        },
    )
