"""What a stage returns: row counts that add up, metrics, artifacts and facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qarm.errors import RowsLostError


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Rows read, rows written, and why the others were dropped."""

    name: str
    """What is counted, such as "log lines"."""
    rows_in: int
    rows_out: int
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> rows."""
    added: dict[str, int] = field(default_factory=dict)
    """Reason -> rows that the stage generated, such as sampled negatives."""

    def close(self, stage: str) -> None:
        """Check that rows in + added = rows out + dropped, and that no count is negative.

        Raises:
            RowsLostError: it is not so.
        """
        counts = [("rows in", self.rows_in), ("rows out", self.rows_out)]
        counts += [*self.added.items(), *self.dropped.items()]
        if negative := dict(count for count in counts if count[1] < 0):
            raise RowsLostError(
                f"{stage}, {self.name}: counts of rows are never negative, seen {negative}"
            )
        left = self.rows_in + sum(self.added.values())
        right = self.rows_out + sum(self.dropped.values())
        if left != right:
            raise RowsLostError(
                f"{stage}, {self.name}: {self.rows_in} rows in + {self.added} added is not "
                f"{self.rows_out} rows out + {self.dropped} dropped; {left - right} unaccounted for"
            )


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure: the columns of table metrics that the stage fills; the runner adds the rest."""

    metric: str
    value: float
    n: int
    part: str = ""
    slice: str = "all"
    variant: str = ""
    seed: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(kw_only=True)
class StageResult:
    """What a stage returns to the runner, which checks, gates and publishes it."""

    ledgers: list[Ledger]
    """The first one gives rows_in and rows_out of the stage in summary.json."""
    metrics: list[Metric] = field(default_factory=list)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> {uri, version, ...}."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Small JSON values that later stages and the report read."""
