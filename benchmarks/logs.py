"""Synthetic interaction logs for the mining benchmarks, and their Spark session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qarm.session import open_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_START_MICROS = 1_700_000_000_000_000
_YEAR_MICROS = 365 * 86_400_000_000


def session() -> SparkSession:
    """Two cores, as the shipped configurations for one machine."""
    settings = {
        "spark.driver.memory": "6g",
        "spark.sql.shuffle.partitions": "8",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.ui.enabled": "false",
    }
    return open_session("benchmark", master="local[2]", settings=settings)


def zipf_log(
    users: int, items: int, rows: int, *, activity: str = "zipf", most: int = 500, seed: int = 0
) -> pa.Table:
    """About ``rows`` distinct (user, item) events: user_idx, item_idx, ts, seq, weight.

    Items follow a Zipf law with exponent 1, so that a large share of all users has the first one.
    Times are uniform over a year; ``seq`` is the order within the user.

    Args:
        users: distinct users.
        items: size of the catalogue.
        rows: requested rows; users who draw few distinct items get slightly fewer.
        activity: distribution of events per user: zipf (exponent 1) or lognormal (sigma 1).
        most: maximum number of events of a user.
        seed: seed of the generator.
    """
    rng = np.random.default_rng(seed)
    if activity == "zipf":
        shape = rng.permutation(1.0 / np.arange(1, users + 1))
    else:
        shape = rng.lognormal(0.0, 1.0, users)
    low, high = 0.0, float(rows) / shape.min()
    for _ in range(60):  # the factor with which the cut counts add up to rows
        middle = (low + high) / 2
        enough = np.clip(np.rint(shape * middle), 1, most).sum() >= rows
        low, high = (low, middle) if enough else (middle, high)
    activity_counts = shape * high
    counts = np.clip(np.rint(activity_counts), 1, most).astype(np.int64)
    chance = 1.0 / np.arange(1, items + 1)
    edges = np.cumsum(chance / chance.sum())
    names = rng.permutation(items)  # popularity says nothing about the number
    want = np.ceil(counts * 1.4).astype(np.int64)  # repeats leave about the count asked for
    user = np.repeat(np.arange(users), want)
    item = names[np.minimum(np.searchsorted(edges, rng.random(len(user))), items - 1)]
    _, first = np.unique(user * items + item, return_index=True)
    first.sort()
    user, item = user[first], item[first]
    start = np.searchsorted(user, np.arange(users))
    place = np.arange(len(user)) - start[user]
    keep = place < counts[user]
    user, item = user[keep], item[keep]
    ts = _START_MICROS + rng.integers(0, _YEAR_MICROS, len(user))
    order = np.lexsort((ts, user))
    user, item, ts = user[order], item[order], ts[order]
    seq = np.arange(len(user)) - np.searchsorted(user, np.arange(users))[user]
    shuffled = rng.permutation(len(user))  # logs come by time or by file, not by user
    return pa.table(
        {
            "user_idx": user[shuffled].astype(np.int64),
            "item_idx": item[shuffled].astype(np.int64),
            "ts": pa.array(ts[shuffled], pa.timestamp("us", "UTC")),
            "seq": seq[shuffled].astype(np.int64),
            "weight": np.ones(len(user), np.float64),
        }
    )


def stored_log(
    folder: Path, users: int, items: int, rows: int, activity: str = "zipf", seed: int = 0
) -> Path:
    """``zipf_log`` as Parquet under ``folder``, in four files; made only once."""
    path = folder / f"{activity}-{users}-{items}-{rows}-{seed}"
    if not (path / "_SUCCESS").exists():
        print(f"making {path.name}", file=sys.stderr, flush=True)
        path.mkdir(parents=True, exist_ok=True)
        table = zipf_log(users, items, rows, activity=activity, seed=seed)
        part = -(-len(table) // 4)
        for number in range(4):
            pq.write_table(table.slice(number * part, part), path / f"part-{number}.parquet")
        (path / "_SUCCESS").touch()
    return path
