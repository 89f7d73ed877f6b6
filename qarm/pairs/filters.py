"""Filters of mined pairs: which stay, and how many each filter removed.

About 10 % of Swing pairs and 70 % of User2Item pairs are unrelated by content (arXiv 2602.08559);
OmniSearchSage drops pairs of little support, NoteLLM scores that are too high or too low. The
filters are asked in the order of ``REASONS``, the dear ones last; a pair counts for the first that
removes it.
"""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING

from qarm.pairs.judges import judge_batches, open_judge
from qarm.pairs.mined import Keep

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from qarm.config.pairs import Filters

REASONS = (
    "filter_support",
    "filter_low_score",
    "filter_high_score",
    "filter_popular",
    "filter_content",
    "filter_judge",
)


def is_active(config: Filters, source: str) -> bool:
    """Whether any filter looks at pairs of ``source``."""
    return (
        source in config.min_support
        or source in config.score_quantiles
        or config.max_item_events > 0
        or needs_text(config)
    )


def needs_features(config: Filters) -> bool:
    """Whether text features are looked at."""
    return config.min_content_similarity > -1


def needs_text(config: Filters) -> bool:
    """Whether texts, or features of them, are looked at."""
    return needs_features(config) or bool(config.judge)


def filter_pairs(
    pairs: DataFrame,
    source: str,
    config: Filters,
    *,
    events: DataFrame,
    keep: Keep,
    vectors: DataFrame | None = None,
    texts: DataFrame | None = None,
) -> tuple[DataFrame, dict[str, int]]:
    """Pairs that stay, and reason -> pairs removed.

    Args:
        pairs: trigger, target, score, support and whatever else; of one source.
        source: u2i, swing or itemcf.
        config: see qarm.config.Filters.
        events: the events mined: item_idx; for the popularity cap.
        keep: keeps frames that are read more than once.
        vectors: item_idx, vector; where a content floor is set.
        texts: item_idx, text; where a judge is named.

    Raises:
        ConfigError: the judge cannot be made, or answers with another number of verdicts.
    """
    from pyspark.sql import functions as F

    marked = pairs.withColumn("fate", _cheap(pairs, source, config, keep))
    if config.max_item_events:
        marked = _mark_popular(marked, events, config.max_item_events)
    if needs_features(config):
        assert vectors is not None
        marked = _mark_unlike(marked, vectors, config.min_content_similarity)
    if config.judge:
        assert texts is not None
        marked = _mark_judged(keep(marked), texts, config)
    marked = keep(marked)
    counts = {row["fate"]: row["count"] for row in marked.groupBy("fate").count().collect()}
    removed = {reason: int(counts[reason]) for reason in REASONS if reason in counts}
    return marked.where(F.col("fate").isNull()).drop("fate"), removed


def _cheap(pairs: DataFrame, source: str, config: Filters, keep: Keep) -> Column:
    """What support and score alone say: a reason, or null."""
    from pyspark.sql import functions as F

    fate: Column = F.lit(None).cast("string")
    if source in config.score_quantiles:
        low, high = score_bounds(pairs, *config.score_quantiles[source], keep)
        fate = F.when(F.col("score") > high, "filter_high_score").otherwise(fate)
        fate = F.when(F.col("score") < low, "filter_low_score").otherwise(fate)
    least = config.min_support.get(source, 0)
    return F.when(F.col("support") < least, "filter_support").otherwise(fate)


def score_bounds(pairs: DataFrame, low: float, high: float, keep: Keep) -> tuple[float, float]:
    """Scores of the pairs at the row quantiles ``low`` and ``high``: exact, so that they do not
    depend on how the pairs are partitioned. All scores lie between them where there are no pairs.
    """
    from pyspark.sql import functions as F

    from qarm.ingest.indices import numbered

    ranked, rows = numbered(pairs.select("score"), [F.col("score").asc()], "place", keep)
    if not rows:
        return -math.inf, math.inf
    places = (math.floor(low * rows), min(rows, math.ceil(high * rows)) - 1)
    wanted = ranked.where(F.col("place").isin(*places)).collect()
    at = {row["place"]: row["score"] for row in wanted}
    return at[min(places[0], rows - 1)], at[max(places[1], 0)]


def _mark(marked: DataFrame, fails: Column, reason: str) -> DataFrame:
    from pyspark.sql import functions as F

    return marked.withColumn(
        "fate", F.when(F.col("fate").isNull() & fails, reason).otherwise(F.col("fate"))
    )


def _mark_popular(marked: DataFrame, events: DataFrame, most: int) -> DataFrame:
    from pyspark.sql import functions as F

    popular = events.groupBy("item_idx").count().where(F.col("count") > most)
    sides = []
    for side in ("trigger", "target"):
        name = f"{side}_popular"
        one = popular.select(F.col("item_idx").alias(side), F.lit(True).alias(name))
        marked = marked.join(one, side, "left")
        sides.append(name)
    fails = F.coalesce(*sides, F.lit(False))
    return _mark(marked, fails, "filter_popular").drop(*sides)


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


def _mark_judged(marked: DataFrame, texts: DataFrame, config: Filters) -> DataFrame:
    """Asks the judge about the pairs that are left and have two texts."""
    from pyspark.sql import functions as F

    settings = json.dumps(config.judge_settings, sort_keys=True)
    open_judge(config.judge, settings)  # what is wrong with it is said here, not in a task
    asked = marked.where(F.col("fate").isNull()).select("trigger", "target")
    for side in ("trigger", "target"):
        one = texts.where("text IS NOT NULL").select(
            F.col("item_idx").alias(side), F.col("text").alias(f"{side}_text")
        )
        asked = asked.join(one, side)
    verdicts = asked.mapInArrow(
        partial(judge_batches, name=config.judge, settings_json=settings),
        "trigger bigint, target bigint, related boolean",
    )
    judged = marked.join(verdicts, ["trigger", "target"], "left")
    fails = ~F.coalesce("related", F.lit(True))
    return _mark(judged, fails, "filter_judge").drop("related")
