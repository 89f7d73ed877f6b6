"""Aggregates of pairs and codes that the report shows; their size is bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Buckets of the score histogram.
BUCKETS = 40
#: Sources whose scores span orders of magnitude.
LOG_SCORES = ("swing", "itemcf")
#: Number of code prefixes shown, of items of each, and of characters of a title.
PREFIXES, TITLES, TITLE_LENGTH = 6, 8, 90


@dataclass(frozen=True)
class PairSource:
    """The pairs of one source."""

    source: str
    pairs: int
    triggers: int
    targets: int
    median_support: float
    log_score: bool
    """Whether the histogram is of log10 of the score."""
    score_edges: list[float]
    """Equal buckets between the 0.5 % and 99.5 % quantiles; the outer ones include the rest."""
    score_counts: list[int]
    support_counts: list[int]
    """Number of pairs with support in [2^i, 2^(i+1))."""


def pair_sources(pairs: DataFrame) -> list[PairSource]:
    """Counts and histograms of ``item_pairs``, one entry per source in alphabetical order."""
    from pyspark.sql import functions as F

    skewed = F.col("source").isin(*LOG_SCORES) & (F.col("score") > 0)
    pairs = pairs.withColumn("score", F.when(skewed, F.log10("score")).otherwise(F.col("score")))
    summary = pairs.groupBy("source").agg(
        F.count("*").alias("pairs"),
        F.count_distinct("trigger").alias("triggers"),
        F.count_distinct("target").alias("targets"),
        F.percentile_approx("support", 0.5).alias("support"),
        F.percentile_approx("score", [0.005, 0.995], 1000).alias("range"),
    )
    rows = {row["source"]: row for row in summary.collect()}
    edges = F.create_map(
        *[F.lit(x) for source, row in rows.items() for x in (source, float(row["range"][0]))]
    )
    widths = {s: max(r["range"][1] - r["range"][0], 1e-12) / BUCKETS for s, r in rows.items()}
    width = F.create_map(*[F.lit(x) for pair in widths.items() for x in pair])
    place = F.floor((F.col("score") - edges[F.col("source")]) / width[F.col("source")])
    score = F.least(F.greatest(place, F.lit(0)), F.lit(BUCKETS - 1)).cast("int")
    support = F.floor(F.log2(F.col("support"))).cast("int")
    cells: dict[str, dict[str, dict[int, int]]] = {s: {"score": {}, "support": {}} for s in rows}
    if rows:
        for kind, bucket in (("score", score), ("support", support)):
            for row in pairs.groupBy("source", bucket.alias("bucket")).count().collect():
                cells[row["source"]][kind][row["bucket"]] = row["count"]
    sources = []
    for source, row in sorted(rows.items()):
        low = float(row["range"][0])
        steps = cells[source]["support"]
        sources.append(
            PairSource(
                source=source,
                pairs=row["pairs"],
                triggers=row["triggers"],
                targets=row["targets"],
                median_support=float(row["support"]),
                log_score=source in LOG_SCORES,
                score_edges=[low + widths[source] * i for i in range(BUCKETS + 1)],
                score_counts=[cells[source]["score"].get(i, 0) for i in range(BUCKETS)],
                support_counts=[steps.get(i, 0) for i in range(max(steps) + 1)],
            )
        )
    return sources


@dataclass(frozen=True)
class Prefix:
    """Items that share the first two levels of their RQ code."""

    codes: tuple[int, ...]
    items: int
    titles: list[str]
    """Titles of the items with the most events."""


def prefixes(ids: DataFrame, items: DataFrame, interactions: DataFrame) -> list[Prefix]:
    """The prefixes (c1, c2) with the most items, and titles of their items with the most events.

    Args:
        ids: rows of semantic_ids of one codebook.
        items: the catalogue.
        interactions: the log.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    prefix = F.slice("rq", 1, 2)
    coded = ids.where(F.size("rq") > 0).select("item_idx", prefix.alias("prefix"))
    most = coded.groupBy("prefix").agg(F.count("*").alias("items"))
    most = most.orderBy(F.desc("items"), "prefix").limit(PREFIXES)
    events = interactions.groupBy("item_idx").agg(F.count("*").alias("events"))
    title = F.substring(F.coalesce("title", "text", "item_id"), 1, TITLE_LENGTH)
    by_events = Window.partitionBy("prefix").orderBy(F.desc("events"), "item_idx")
    rows = (
        coded.join(F.broadcast(most), "prefix")
        .join(items.select("item_idx", title.alias("title")), "item_idx")
        .join(events, "item_idx", "left")
        .withColumn("events", F.coalesce("events", F.lit(0)))
        .withColumn("place", F.row_number().over(by_events))
        .where(F.col("place") <= TITLES)
        .orderBy(F.desc("items"), "prefix", "place")
        .collect()
    )
    by_codes: dict[tuple[int, ...], Prefix] = {}
    for row in rows:
        codes = tuple(row["prefix"])
        by_codes.setdefault(codes, Prefix(codes, row["items"], [])).titles.append(row["title"])
    return list(by_codes.values())
