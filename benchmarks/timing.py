"""Timing in pairs, and the line of JSON that a benchmark prints."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def say(message: str) -> None:
    """Progress, on stderr."""
    print(message, file=sys.stderr, flush=True)


def interleaved(
    name: str, ours: Callable[[], Any], peer: Callable[[], Any], runs: int
) -> tuple[list[float], list[float]]:
    """Seconds of each run, ours and the peer's in turn."""
    mine, other = [], []
    for run in range(runs):
        mine.append(timed(ours))
        other.append(timed(peer))
        say(f"{name}: run {run + 1}, ours {mine[-1]:.2f} s, peer {other[-1]:.2f} s")
    return mine, other


def report(
    benchmark: str, case: str, peer: str, ours_s: list[float], peer_s: list[float], equal: bool
) -> None:
    """One case on stdout; ratio: the peer's time over ours, median over the pairs of runs."""
    ratios = [b / a for a, b in zip(ours_s, peer_s, strict=True)]
    line = {
        "benchmark": benchmark,
        "case": case,
        "ours_s": round(statistics.median(ours_s), 4),
        "peer": peer,
        "peer_s": round(statistics.median(peer_s), 4),
        "ratio": round(statistics.median(ratios), 2),
        "runs": len(ratios),
        "equal": equal,
    }
    print(json.dumps(line), flush=True)
