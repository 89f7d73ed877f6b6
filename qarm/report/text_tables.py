"""Tables of figures, and their form as text. ``report.html`` has one macro for the same tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Metrics of a stage with more names than this are printed as a list.
_MOST_COLUMNS = 8


@dataclass(frozen=True)
class Cell:
    """One figure, formatted."""

    text: str
    note: str = ""
    """Second figure, such as the chance level: in brackets in text, small in HTML."""


@dataclass(frozen=True)
class Row:
    """One row: its name and a cell per column."""

    name: str
    cells: Sequence[Cell]
    meaning: str = ""
    """What the name stands for; in HTML only."""
    minor: bool = False
    """Whether the row is about a part of the row above; muted in HTML."""


@dataclass(frozen=True)
class Table:
    """A titled table."""

    title: str
    header: Sequence[str]
    """Names of the columns right of the row names."""
    rows: Sequence[Row]
    explanation: str = ""
    """How to read the table; in HTML only."""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines: the first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def table_lines(table: Table) -> list[str]:
    """Title, header and rows; indented below the title."""
    body = [
        [row.name, *(f"{c.text} ({c.note})" if c.note else c.text for c in row.cells)]
        for row in table.rows
    ]
    return [table.title, *(f"  {line}" for line in aligned([["", *table.header], *body]))]


def metric_lines(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics of a stage: one row per slice, part and variant, one column per metric.

    If a stage has held-out figures of both parts, those of validation are omitted. Of the slices,
    only "all" and the warm pairs of the alignment are shown. summary.json has all of them.
    """
    parts = {m["part"] for m in metrics}
    shown = [
        m
        for m in metrics
        if (m["slice"] == "all" or m["slice"].endswith("warm"))
        and not (m["part"] == "valid" and "test" in parts)
    ]
    lines: list[str] = []
    for where in dict.fromkeys((m["slice"], m["part"]) for m in shown):
        group = [m for m in shown if (m["slice"], m["part"]) == where]
        lines += _by_variant(group, ", ".join(w for w in where if w and w != "all"))
    return lines


def _by_variant(metrics: Sequence[Mapping[str, Any]], title: str) -> list[str]:
    cells: dict[str, dict[str, list[str]]] = {}
    for m in metrics:  # figures of several levels (name_l1, name_l2, ...) share a cell
        name = re.sub(r"_l\d+$", " by level", m["metric"])
        cells.setdefault(name, {}).setdefault(m["variant"], []).append(_figure(m["value"]))
    if len(cells) > _MOST_COLUMNS:
        return [
            f"{variant or title} {name}: {' '.join(values)}"
            for name, row in cells.items()
            for variant, values in row.items()
        ]
    variants = dict.fromkeys(m["variant"] for m in metrics)
    return aligned(
        [
            [title, *cells],
            *([v, *(" ".join(row.get(v, [])) for row in cells.values())] for v in variants),
        ]
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"
