"""Made-up interaction logs for the mining benchmarks: Zipf items, log-normal users."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_START_MICROS = 1_700_000_000_000_000
_YEAR_MICROS = 365 * 86_400_000_000


def zipf_log(users: int, items: int, rows: int, *, most: int = 500, seed: int = 0) -> pa.Table:
    """About ``rows`` distinct (user, item) events: user_idx, item_idx, ts, seq, weight.

    A user's number of events is log-normal (sigma 1), cut at ``most``; items are drawn from a Zipf
    law (exponent 1), so that the first item is met by a large share of all users. Times are uniform
    over a year; ``seq`` is the order within the user.

    Args:
        users: distinct users.
        items: size of the catalogue.
        rows: rows before repeated (user, item) draws are dropped and drawn anew once.
        most: most events of a user.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0.0, 1.0, users)
    counts = np.clip(np.rint(activity * rows / activity.sum()), 1, most).astype(np.int64)
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


def stored_log(folder: Path, users: int, items: int, rows: int, seed: int = 0) -> Path:
    """``zipf_log`` as Parquet under ``folder``, in four files; made once."""
    path = folder / f"log-{users}-{items}-{rows}-{seed}"
    if not (path / "_SUCCESS").exists():
        print(f"making {path.name}", file=sys.stderr, flush=True)
        path.mkdir(parents=True, exist_ok=True)
        table = zipf_log(users, items, rows, seed=seed)
        part = -(-len(table) // 4)
        for number in range(4):
            pq.write_table(table.slice(number * part, part), path / f"part-{number}.parquet")
        (path / "_SUCCESS").touch()
    return path
