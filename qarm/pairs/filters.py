"""Filters of mined pairs: which are kept, and how many each filter removed.

About 10 % of Swing pairs and 70 % of User2Item pairs are unrelated by content (arXiv 2602.08559).
The filters run in the order of ``REASONS``, the expensive one last; a pair counts for the first
that removes it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qarm.pairs.judges import judge_batches, open_judge
from qarm.pairs.mined import Keep

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from qarm.config.pairs import Filters

REASONS = ("filter_content", "filter_judge")


def is_active(config: Filters) -> bool:
    """Whether any filter is set."""
    return needs_features(config) or bool(config.judge)


def needs_features(config: Filters) -> bool:
    """Whether the filters need text features."""
    return config.min_content_similarity > -1


def filter_pairs(
    pairs: DataFrame,
    config: Filters,
    *,
    keep: Keep,
    vectors: DataFrame | None = None,
    texts: DataFrame | None = None,
) -> tuple[DataFrame, dict[str, int]]:
    """Pairs that are kept, and the number of pairs removed per reason.

    Args:
        pairs: trigger, target and any other columns.
        config: see qarm.config.pairs.Filters.
        keep: keeps frames that are read more than once.
        vectors: item_idx, vector; required if a content floor is set.
        texts: item_idx, text; required if a judge is named.

    Raises:
        ConfigError: the judge cannot be made, or returns another number of verdicts.
    """
    from pyspark.sql import functions as F

    marked = pairs.withColumn("fate", F.lit(None).cast("string"))
    if needs_features(config):
        assert vectors is not None
        marked = _mark_unlike(marked, vectors, config.min_content_similarity)
    if config.judge:
        assert texts is not None
        marked = _mark_judged(keep(marked), texts, config.judge)
    marked = keep(marked)
    counts = {row["fate"]: row["count"] for row in marked.groupBy("fate").count().collect()}
    removed = {reason: int(counts[reason]) for reason in REASONS if reason in counts}
    return marked.where(F.col("fate").isNull()).drop("fate"), removed


def _mark(marked: DataFrame, fails: Column, reason: str) -> DataFrame:
    from pyspark.sql import functions as F

    return marked.withColumn(
        "fate", F.when(F.col("fate").isNull() & fails, reason).otherwise(F.col("fate"))
    )


def _mark_unlike(marked: DataFrame, vectors: DataFrame, least: float) -> DataFrame:
    from pyspark.sql import functions as F

    for side in ("trigger", "target"):
        one = vectors.select(F.col("item_idx").alias(side), F.col("vector").alias(f"{side}_vector"))
        marked = marked.join(one, side, "left")
    a, b = F.col("trigger_vector"), F.col("target_vector")
    cosine = F.try_divide(_dot(a, b), F.sqrt(_dot(a, a) * _dot(b, b)))
    fails = F.coalesce(cosine < least, F.lit(False))
    return _mark(marked, fails, "filter_content").drop("trigger_vector", "target_vector")


def _dot(a: Column, b: Column) -> Column:
    from pyspark.sql import functions as F

    products = F.zip_with(a, b, lambda x, y: x.cast("double") * y)
    return F.aggregate(products, F.lit(0.0), lambda total, x: total + x)


def _mark_judged(marked: DataFrame, texts: DataFrame, judge: str) -> DataFrame:
    """Asks the judge about the remaining pairs of which both items have a text."""
    from pyspark.sql import functions as F

    open_judge(judge)  # a faulty one is reported here, not in a task
    asked = marked.where(F.col("fate").isNull()).select("trigger", "target")
    for side in ("trigger", "target"):
        one = texts.where("text IS NOT NULL").select(
            F.col("item_idx").alias(side), F.col("text").alias(f"{side}_text")
        )
        asked = asked.join(one, side)
    verdicts = asked.mapInArrow(
        partial(judge_batches, name=judge),
        "trigger bigint, target bigint, related boolean",
    )
    judged = marked.join(verdicts, ["trigger", "target"], "left")
    fails = ~F.coalesce("related", F.lit(True))
    return _mark(judged, fails, "filter_judge").drop("related")
