"""Figures of stage quality as a few plain tables, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Rows = Iterable[Mapping[str, Any]]

_LEVELS = {
    "codes in use": ("utilisation", "{:.1%}"),
    "dead codes": ("dead", "{:,.0f}"),
    "entropy / maximum": ("entropy", "{:.3f}"),
    "perplexity": ("perplexity", "{:,.1f}"),
    "Gini": ("gini", "{:.3f}"),
    "squared error left": ("reconstruction_error", "{:.4f}"),
    "share of length^2 left": ("relative_error", "{:.3f}"),
    "cosine to the item": ("cosine", "{:.3f}"),
    "cosine inside the prefix": ("prefix_cosine", "{:.3f}"),
}
_CHANGES = {
    "number changed": ("changed", "{:.1%}"),
    "prefix changed": ("prefix_changed", "{:.1%}"),
    "adjusted Rand index": ("adjusted_rand", "{:.3f}"),
    "mutual information / entropy": ("nmi", "{:.3f}"),
}
_TITLES = {"rq": "RQ", "rq_resolved": "RQ, resolved"}
_COLLISIONS = {
    "duplicate_rate": "{:.2%}",
    "shared_rate": "{:.2%}",
    "items_per_code": "{:.2f}",
    "largest_code": "{:,.0f}",
}


class _Figures:
    """Rows of metrics by name, variant and slice."""

    def __init__(self, rows: Rows) -> None:
        self.by = {(r["metric"], r["variant"], r["slice"]): r for r in rows}

    def cell(self, metric: str, variant: str, where: str, form: str) -> str:
        row = self.by.get((metric, variant, where))
        return form.format(row["value"]) if row else "-"

    def slices(self, pattern: str, variant: str) -> list[str]:
        """Slices in which a metric of that name is told, in the order of the rows."""
        return list(
            dict.fromkeys(s for m, v, s in self.by if v == variant and re.fullmatch(pattern, m))
        )

    def levels(self, name: str, variant: str) -> int:
        found = (re.fullmatch(rf"{name}_l(\d+)", m) for m, v, _ in self.by if v == variant)
        return max((int(match[1]) for match in found if match), default=0)


def lines(metrics: Rows, facts: Mapping[str, Any]) -> list[str]:
    """The report as lines of text.

    Args:
        metrics: rows of the metrics table of stage quality.
        facts: those of its manifest.
    """
    figures = _Figures(metrics)
    sizes = facts.get("rq_sizes", [])
    title = f"Codebook {facts.get('codebook_id', '')}: rq {' x '.join(map(str, sizes)) or 'none'}"
    found = [f"{title}, {facts.get('vq_anchors', 0):,} anchors", ""]
    for part in (_levels, _collisions, _neighbours, _pairs, _purity):
        found += part(figures)
    found += _change(figures, facts)
    zero = figures.by.get(("zero_vectors", "", "all"))
    if zero is not None and zero["value"]:
        found += [f"Vectors without a direction: {zero['value']:,.0f}"]
    found += [f"Left out: {part}: {why}" for part, why in facts.get("left_out", {}).items()]
    while found and not found[-1]:
        found.pop()
    return found


def _levels(figures: _Figures) -> list[str]:
    found = []
    for variant in ("rq", "rq_resolved"):
        levels = figures.levels(f"{variant}_utilisation", variant)
        if not levels:
            continue
        rows = _by_level(figures, variant, _LEVELS, levels)
        found += _table(
            f"{_TITLES[variant]}, by level", [str(n) for n in range(1, levels + 1)], rows
        )
    if ("vq_utilisation_first", "vq", "all") in figures.by:
        rows = [
            (label, [figures.cell(f"vq_{name}_first", "vq", "all", form)])
            for label, (name, form) in _LEVELS.items()
            if (f"vq_{name}_first", "vq", "all") in figures.by
        ]
        found += _table("VQ, as nearest anchor", ["first"], rows)
    if ("rq_prefix_cosine_l0", "rq", "all") in figures.by:
        any_two = figures.cell("rq_prefix_cosine_l0", "rq", "all", "{:.3f}")
        found[-1:] = [f"Cosine of any two items: {any_two}", ""]
    return found


def _by_level(
    figures: _Figures, variant: str, named: Mapping[str, tuple[str, str]], levels: int
) -> list[tuple[str, list[str]]]:
    rows = []
    for label, (name, form) in named.items():
        cells = [
            figures.cell(f"{variant}_{name}_l{n}", variant, "all", form)
            for n in range(1, levels + 1)
        ]
        if any(cell != "-" for cell in cells):
            rows.append((label, cells))
    return rows


def _collisions(figures: _Figures) -> list[str]:
    rows = []
    last = figures.levels("rq_cosine", "rq")
    for variant in ("rq", "rq_resolved", "vq"):
        for where in figures.slices("duplicate_rate", variant):
            n = figures.by["duplicate_rate", variant, where]["n"]
            cells = [f"{n:,}"]
            cells += [figures.cell(m, variant, where, form) for m, form in _COLLISIONS.items()]
            cells.append(figures.cell(f"{variant}_cosine_l{last}", variant, where, "{:.3f}"))
            rows.append((f"{variant} {where}", cells))
    header = ["items", "duplicate rate", "shared rate", "items/code", "largest", "cosine"]
    return _table("Collisions, by slice", header, rows) if rows else []


def _neighbours(figures: _Figures) -> list[str]:
    metric = next((m for m, _, _ in figures.by if m.startswith("neighbour_overlap@")), None)
    if metric is None:
        return []
    rows = []
    chance = metric.replace("@", "_chance@")
    for variant in ("rq", "vq"):
        for where in figures.slices(re.escape(metric), variant):
            row = figures.by[metric, variant, where]
            rows.append(
                (
                    f"{variant} {where}",
                    [
                        f"{row['n']:,}",
                        f"{row['value']:.3f}",
                        _interval(row),
                        figures.cell(chance, variant, "all", "{:.4f}"),
                    ],
                )
            )
    k = metric.partition("@")[2]
    title = f"Neighbours: Jaccard@{k} of code space and vector space"
    return _table(title, ["queries", "overlap", "95 % interval", "chance"], rows)


def _pairs(figures: _Figures) -> list[str]:
    return _against_chance(
        figures, "pair_agreement", "Held-out pairs that share a prefix", "pairs", "{:.2%}"
    )


def _purity(figures: _Figures) -> list[str]:
    title = "Items with their prefix's most common category (themselves left out)"
    return _against_chance(figures, "purity", title, "items", "{:.1%}")


def _against_chance(figures: _Figures, name: str, title: str, what: str, form: str) -> list[str]:
    """Figure and chance level, a column a length of the prefix."""
    levels = figures.levels(f"rq_{name}", "rq")
    if not levels:
        return []
    rows = []
    for where in figures.slices(rf"rq_{name}_l\d+", "rq"):
        cells = [f"{figures.by[f'rq_{name}_l1', 'rq', where]['n']:,}"]
        for n in range(1, levels + 1):
            value = figures.cell(f"rq_{name}_l{n}", "rq", where, form)
            chance = figures.cell(f"rq_{name}_chance_l{n}", "rq", where, form)
            cells.append(f"{value} ({chance})")
        rows.append((where.removeprefix("field "), cells))
    header = [what, *(f"length {n} (chance)" for n in range(1, levels + 1))]
    return _table(title, header, rows)


def _change(figures: _Figures, facts: Mapping[str, Any]) -> list[str]:
    levels = figures.levels("rq_changed", "rq")
    if not levels:
        return []
    rows = _by_level(figures, "rq", _CHANGES, levels)
    n = figures.by["rq_changed_l1", "rq", "all"]["n"]
    title = f"Change since codebook {facts.get('before', '')}, {n:,} items in both"
    return _table(title, [str(n) for n in range(1, levels + 1)], rows)


def _interval(row: Mapping[str, Any]) -> str:
    return "-" if row.get("low") is None else f"{row['low']:.3f} to {row['high']:.3f}"


def _table(
    title: str, header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]
) -> list[str]:
    """Title, header and rows: names to the left, cells to the right, a blank line after."""
    first = max(len(name) for name, _ in rows) + 2
    widths = [
        max(len(header[i]), *(len(cells[i]) for _, cells in rows)) + 2 for i in range(len(header))
    ]

    def aligned(cells: Sequence[str]) -> str:
        return "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))

    return [
        title,
        " " * (first + 2) + aligned(header),
        *(f"  {name.ljust(first)}{aligned(cells)}" for name, cells in rows),
        "",
    ]
