"""The miners in plain Python, from their definitions; and small random logs."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import NamedTuple

import numpy as np

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


class Event(NamedTuple):
    user: int
    item: int
    minute: int
    seq: int
    weight: float

    @property
    def ts(self) -> datetime:
        return EPOCH + timedelta(minutes=self.minute)

    @property
    def seconds(self) -> float:
        return self.ts.timestamp()


class Pair(NamedTuple):
    score: float
    support: int
    weight: float
    last: float
    """Epoch seconds."""


def random_log(seed: int, *, users: int, items: int, events: int) -> list[Event]:
    """A skewed log with equal timestamps and repeats; seq is a random order among equal times."""
    rng = np.random.default_rng(seed)
    weights = (1.0, 1.0, 0.5, 2.25)
    rows = [
        (
            int(users * rng.random() ** 2),
            int(items * rng.random() ** 2),
            int(rng.integers(events)),
            float(rng.choice(weights)),
        )
        for _ in range(events)
    ]
    log = []
    for user in {row[0] for row in rows}:
        mine = sorted((r for r in rows if r[0] == user), key=lambda r: (r[2], rng.random()))
        log += [Event(u, i, m, seq, w) for seq, (u, i, m, w) in enumerate(mine)]
    rng.shuffle(log)  # type: ignore[arg-type]
    return [Event(*row) for row in log]


def user2item(log, vectors, window, min_similarity, is_target=lambda event: True):
    """[(trigger, target, user, ts, similarity, weight)] and a count of each outcome."""
    unit = {
        i: np.asarray(v, np.float32) / np.float32(np.linalg.norm(v))
        for i, v in vectors.items()
        if np.linalg.norm(v) > 0
    }
    rows = []
    counts: dict[str, int] = defaultdict(int)
    for event in log:
        if not is_target(event):
            continue
        counts["targets"] += 1
        if event.item not in unit:
            counts["no_vector"] += 1
            continue
        before = [e for e in log if e.user == event.user and e.minute < event.minute]
        before = sorted(before, key=lambda e: (-e.minute, e.item))[:window]
        if not before:
            counts["no_earlier_event"] += 1
            continue
        candidates = [e for e in before if e.item in unit and e.item != event.item]
        if not candidates:
            counts["no_candidate"] += 1
            continue
        cosines = [float(unit[e.item].astype(float) @ unit[event.item]) for e in candidates]
        best = max(cosines)
        near = next(k for k, c in enumerate(cosines) if c > best - 1e-9)
        if best < min_similarity:
            counts["below_min_similarity"] += 1
            continue
        trigger = candidates[near].item
        rows.append((trigger, event.item, event.user, event.ts, best, event.weight))
    return rows, counts


def swing(log, config, keeps):
    """{(i, j): Pair}; ``keeps(item, users)`` are the users that an item keeps."""
    seen: dict[int, dict[int, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for event in log:
        seen[event.user][event.item].append(event)
    lists = {}
    for user, items in seen.items():
        if len(items) < config.min_items_per_user:
            continue
        if len(items) > config.max_items_per_user:
            if config.over_cap == "drop":
                continue
            latest = sorted(items, key=lambda i: (-max(e.minute for e in items[i]), i))
            items = {i: items[i] for i in latest[: config.max_items_per_user]}
        lists[user] = items
    users_of = defaultdict(set)
    for user, items in lists.items():
        for item in items:
            users_of[item].add(user)
    sample = {i: keeps(i, users) for i, users in users_of.items()}
    weight = {u: (len(items) + config.alpha1) ** -config.beta for u, items in lists.items()}
    pairs = {}
    for i in sample:
        for j in sample:
            common = sorted(sample[i] & sample[j])
            if i == j or len(common) < max(2, config.min_support):
                continue
            score = sum(
                weight[u] * weight[v] / (config.alpha2 + len(lists[u].keys() & lists[v].keys()))
                for u, v in combinations(common, 2)
            )
            behind = [e for u in common for e in (*lists[u][i], *lists[u][j])]
            pairs[i, j] = Pair(
                score, len(common), sum(e.weight for e in behind), max(e.seconds for e in behind)
            )
    return pairs


def itemcf(log, config, by_day=False):
    """{(i, j): Pair}; ``by_day``: support counts co-occurrences."""
    sequences = defaultdict(list)
    for event in sorted(log, key=lambda e: e.seq):
        sequences[event.user].append(event)
    total: dict[tuple[int, int], float] = defaultdict(float)
    behind = defaultdict(list)
    latest: dict[tuple[int, int], float] = {}
    degree: dict[int, float] = defaultdict(float)
    for user, events in sequences.items():
        events = events[-config.max_events_per_user :]
        for event in events:
            degree[event.item] += event.weight
        for x, y in combinations(range(len(events)), 2):
            a, b = events[x], events[y]
            far = y - x > config.window_events > 0
            long = abs(b.seconds - a.seconds) > config.window_days * 86400 > 0
            if far or long or a.item == b.item:
                continue
            for pair in ((a.item, b.item), (b.item, a.item)):
                total[pair] += config.recency ** (y - x - 1) * a.weight * b.weight
                behind[pair].append(user)
                latest[pair] = max(latest.get(pair, 0), a.seconds, b.seconds)
    support = {pair: len(u if by_day else set(u)) for pair, u in behind.items()}
    return {
        (i, j): Pair(c / math.sqrt(degree[i] * degree[j]), support[i, j], c, latest[i, j])
        for (i, j), c in total.items()
        if support[i, j] >= config.min_support
    }
