"""A few statistics of the log, for the facts of the stage and the plots of the report."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from qarm.ingest.parts import PARTS
from qarm.ingest.times import from_micros

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Largest number of buckets of the histogram over time.
MAX_BUCKETS = 400
_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_DAY = 86_400_000_000  # microseconds


def part_statistics(events: DataFrame) -> dict[str, dict[str, int]]:
    """Part -> events, positives, first and last ts (epoch microseconds); no entry if empty."""
    from pyspark.sql import functions as F

    rows = (
        events.groupBy("part")
        .agg(
            F.count("*").alias("rows"),
            F.count_if("positive").alias("positives"),
            F.min(F.unix_micros("ts")).alias("first"),
            F.max(F.unix_micros("ts")).alias("last"),
        )
        .collect()
    )
    by_part = {row["part"]: row.asDict() for row in rows}
    return {
        part: {k: int(v) for k, v in by_part[part].items() if k != "part"}
        for part in PARTS
        if part in by_part
    }


def boundaries(parts: dict[str, dict[str, int]]) -> dict[str, str]:
    """mine_end, train_end, valid_end (ISO): a microsecond after the last event of that part.

    Without a mine part, mine_end is train_end.
    """
    ends: dict[str, str] = {}
    last = min(p["first"] for p in parts.values()) - 1
    for part in ("mine", "train", "valid"):
        last = max(last, parts.get(part, {}).get("last", last))
        ends[f"{part}_end"] = from_micros(last + 1).isoformat()
    if "mine" not in parts:
        ends["mine_end"] = ends["train_end"]
    return ends


def events_over_time(events: DataFrame, first: int, last: int) -> dict[str, Any]:
    """Events per bucket of whole days, with at most MAX_BUCKETS buckets.

    Returns:
        start (ISO date), bucket_days, counts.
    """
    from pyspark.sql import functions as F

    first_day = first // _DAY
    days = last // _DAY - first_day + 1
    width = -(-days // MAX_BUCKETS)
    day = F.floor(F.unix_micros("ts") / _DAY) - first_day
    rows = events.groupBy(F.floor(day / width).alias("bucket")).count().collect()
    counts = [0] * -(-days // width)
    for row in rows:
        counts[int(row["bucket"])] = int(row["count"])
    start = from_micros(0) + timedelta(days=first_day)
    return {"start": start.date().isoformat(), "bucket_days": width, "counts": counts}


def degrees(users: DataFrame, items: DataFrame) -> dict[str, dict[str, Any]]:
    """Events per user and per item: {"users": {"p0": ..., "mean": ..., "n": ...}, "items": ...}.

    Args:
        users: one row per user, with ``events``.
        items: one row per item, with ``events``.
    """
    from pyspark.sql import functions as F

    def described(counts: DataFrame, of: str) -> DataFrame:
        return counts.agg(
            F.lit(of).alias("of"),
            # Exact; its memory grows with the number of distinct degrees, not of rows.
            F.percentile("events", list(_SHARES)).alias("p"),
            F.avg("events").alias("mean"),
            F.count("*").alias("n"),
        )

    rows = described(users, "users").unionByName(described(items, "items")).collect()
    return {
        row["of"]: {
            **{f"p{share * 100:g}": float(v) for share, v in zip(_SHARES, row["p"], strict=True)},
            "mean": round(float(row["mean"]), 4),
            "n": int(row["n"]),
        }
        for row in rows
    }
