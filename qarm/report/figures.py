"""Figures of the metrics table, averaged over seeds, and their format."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One figure, averaged over its seeds."""

    value: float
    """Mean over seeds."""
    n: int
    """Number of rows it was computed on (for one seed)."""
    low: float | None = None
    """Lower end of the 95 % interval over users, mean over seeds; None: no interval."""
    high: float | None = None
    """Upper end of the interval."""
    deviation: float | None = None
    """Standard deviation over seeds (n - 1); None with one seed."""
    seeds: int = 1
    """Number of seeds."""

    @property
    def verdict(self) -> str:
        """For a difference: better, worse or unclear (no interval, or one that contains 0)."""
        if self.low is None or self.high is None:
            return "unclear"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


class Figures:
    """Rows of the metrics table (or of ``metrics`` in summary.json), indexed by their keys."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows: dict[tuple[str, str, str, str, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            key = (row["stage"], row["metric"], row["variant"], row["slice"], row["part"])
            self._rows.setdefault(key, []).append(row)

    def get(
        self, stage: str, metric: str, variant: str = "", slice: str = "all", part: str = ""
    ) -> Figure | None:
        """The figure, or None if it has not been computed."""
        rows = self._rows.get((stage, metric, variant, slice, part))
        return combine(rows) if rows else None

    def seeds(
        self, stage: str, metric: str, variant: str = "", slice: str = "all", part: str = ""
    ) -> list[float]:
        """The value of each seed."""
        rows = self._rows.get((stage, metric, variant, slice, part), [])
        return [float(row["value"]) for row in rows]

    def names(self, stage: str, field: str) -> list[str]:
        """Distinct metrics, variants, slices or parts of a stage, in the order of the table."""
        at = ("stage", "metric", "variant", "slice", "part").index(field)
        return list(dict.fromkeys(key[at] for key in self._rows if key[0] == stage))


def combine(rows: Iterable[Mapping[str, Any]]) -> Figure:
    """One figure from the rows of its seeds."""
    rows = list(rows)
    values = [float(row["value"]) for row in rows]
    bounded = [row for row in rows if row.get("low") is not None and row.get("high") is not None]
    return Figure(
        value=statistics.fmean(values),
        n=max(int(row["n"]) for row in rows),
        low=statistics.fmean(row["low"] for row in bounded) if bounded else None,
        high=statistics.fmean(row["high"] for row in bounded) if bounded else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        seeds=len(values),
    )


def digits(value: float | None, places: int = 4) -> str:
    """The number with ``places`` decimals; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{places}f}"


def signed(value: float | None, places: int = 4) -> str:
    """Like ``digits``, with a sign."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.{places}f}".replace("-", "−")


def thousands(value: float | None) -> str:
    """The integer with thousands separators."""
    return "–" if value is None else f"{value:,.0f}"


def percent(value: float | None, places: int = 1) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.{places}f} %"


def bare(value: float | None, places: int = 1) -> str:
    """A share in per cent without "%", for the interval of a figure that has it."""
    return "–" if value is None else f"{100 * value:.{places}f}"


def gigabytes(value: float | None) -> str:
    """Bytes in GB."""
    return "–" if not value else f"{value / 1e9:.2f} GB"


def duration(seconds: float | None) -> str:
    """A time in seconds, or in minutes and seconds."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
