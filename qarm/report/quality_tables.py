"""Figures of stage quality as tables, for the report and for ``qarm quality``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from qarm.report import plots
from qarm.report.figures import Figure, Figures, digits, percent, thousands
from qarm.report.findings import SOURCES
from qarm.report.text_tables import Cell, Row, Table, table_lines

STAGE = "quality"
KINDS = {"rq": "RQ", "rq_resolved": "RQ, resolved", "vq": "VQ"}

#: Label, metric and format of a row.
_Figure = tuple[str, str, Callable[[float], str]]

_three = partial(digits, places=3)
_USE: tuple[_Figure, ...] = (
    ("codes in use", "utilisation", percent),
    ("unused codes", "dead", thousands),
    ("entropy / maximum", "entropy", _three),
    ("perplexity", "perplexity", partial(digits, places=1)),
    ("Gini", "gini", _three),
)
_BY_LEVEL: tuple[_Figure, ...] = (
    *_USE,
    ("squared error", "reconstruction_error", digits),
    ("squared error / squared length", "relative_error", _three),
    ("cosine to the item", "cosine", _three),
    ("cosine inside the prefix", "prefix_cosine", _three),
)
_CHANGE: tuple[_Figure, ...] = (
    ("number changed", "changed", percent),
    ("prefix changed", "prefix_changed", percent),
    ("adjusted Rand index", "adjusted_rand", _three),
    ("mutual information / entropy", "nmi", _three),
)
_COLLISIONS: tuple[_Figure, ...] = (
    ("duplicate rate", "duplicate_rate", partial(percent, places=2)),
    ("shared rate", "shared_rate", partial(percent, places=2)),
    ("items per code", "items_per_code", partial(digits, places=2)),
    ("largest code", "largest_code", thousands),
)


@dataclass(frozen=True)
class Codes:
    """How good the codes are."""

    title: str
    tables: list[Table]
    remarks: list[str]
    """One sentence each, without a full stop."""
    plots: list[tuple[str, str]] = field(default_factory=list)
    """(caption, SVG); in HTML only."""


def code_tables(figures: Figures, facts: Mapping[str, Any]) -> Codes:
    """Title, tables and remarks, without plots.

    Args:
        figures: the metrics of stage quality.
        facts: the facts of its manifest.
    """
    sizes = " x ".join(map(str, facts.get("rq_sizes", []))) or "none"
    anchors = thousands(facts.get("vq_anchors", 0))
    title = f"Codebook {facts.get('codebook_id', '')}: RQ levels {sizes}, {anchors} VQ anchors"
    tables = [
        *_levels(figures),
        *_collisions(figures, dict(facts.get("slices", []))),
        *_neighbours(figures),
        *_against_chance(
            figures,
            "pair_agreement",
            "Held-out pairs that share a prefix, and chance level",
            "pairs",
            "These pairs are unknown to training. Chance level: the same triggers and targets, "
            "matched at random.",
        ),
        *_against_chance(
            figures,
            "purity",
            "Items with the most common category of their prefix, and chance level",
            "items",
            "The item itself does not vote. Chance level: items with the most common category of "
            "the catalogue.",
        ),
        *_change(figures, facts),
    ]
    remarks = []
    if any_two := figures.get(STAGE, "rq_prefix_cosine_l0", "rq"):
        remarks.append(f"Mean cosine of any two items: {_three(any_two.value)}")
    if (zero := figures.get(STAGE, "zero_vectors")) and zero.value:
        remarks.append(f"Zero vectors, which have no direction: {thousands(zero.value)}")
    remarks += [f"Left out: {part} ({why})" for part, why in facts.get("left_out", {}).items()]
    return Codes(title, tables, remarks)


def code_section(figures: Figures, facts: Mapping[str, Any]) -> Codes:
    """The section of the report: ``code_tables`` and plots."""
    return replace(code_tables(figures, facts), plots=_plots(figures))


def code_lines(metrics: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[str]:
    """The figures as lines of text.

    Args:
        metrics: the entries of stage quality in ``metrics`` of summary.json.
        facts: its facts.
    """
    codes = code_tables(Figures(metrics), facts)
    lines = [codes.title]
    for table in codes.tables:
        lines += ["", *table_lines(table)]
    return [*lines, "", *codes.remarks] if codes.remarks else lines


def _by_level(figures: Figures, metric: str, variant: str, **where: str) -> list[Figure]:
    """The figures ``<metric>_l1``, ``<metric>_l2``, ... as far as they go."""
    by_level: list[Figure] = []
    while figure := figures.get(STAGE, f"{metric}_l{len(by_level) + 1}", variant, **where):
        by_level.append(figure)
    return by_level


def _level_rows(figures: Figures, kind: str, named: Sequence[_Figure]) -> list[Row]:
    rows = []
    for label, metric, form in named:
        if levels := _by_level(figures, f"{kind}_{metric}", kind):
            rows.append(Row(label, [Cell(form(level.value)) for level in levels]))
    return _padded(rows)


def _padded(rows: Sequence[Row]) -> list[Row]:
    """Rows of equal length: a figure may be undefined for the longest prefixes."""
    most = max((len(row.cells) for row in rows), default=0)
    return [
        replace(row, cells=[*row.cells, *[Cell("-")] * (most - len(row.cells))]) for row in rows
    ]


def _numbers(rows: Sequence[Row]) -> list[str]:
    return [str(n) for n in range(1, len(rows[0].cells) + 1)]


def _levels(figures: Figures) -> list[Table]:
    tables = []
    for kind in ("rq", "rq_resolved"):
        if rows := _level_rows(figures, kind, _BY_LEVEL):
            tables.append(Table(f"{KINDS[kind]} by level, all items", _numbers(rows), rows))
    first = [
        Row(label, [Cell(form(figure.value))])
        for label, metric, form in _USE
        if (figure := figures.get(STAGE, f"vq_{metric}_first", "vq"))
    ]
    if first:
        explanation = "Use of the anchors as the nearest anchor of an item."
        tables.append(Table("VQ anchors as nearest anchor", ["first"], first, explanation))
    return tables


def _collisions(figures: Figures, meanings: Mapping[str, str]) -> list[Table]:
    rows = []
    for kind, title in KINDS.items():
        for where in figures.names(STAGE, "slice"):
            row = [figures.get(STAGE, metric, kind, where) for _, metric, _ in _COLLISIONS]
            if row[0] is None:
                continue
            cells = [Cell(thousands(row[0].n))]
            cells += [
                Cell(form(figure.value) if figure else "-")
                for figure, (_, _, form) in zip(row, _COLLISIONS, strict=True)
            ]
            cosines = _by_level(figures, f"{kind}_cosine", kind, slice=where)
            cells.append(Cell(_three(cosines[-1].value) if cosines else "-"))
            rows.append(Row(f"{title}, {where}", cells, meanings.get(where, ""), where != "all"))
    if not rows:
        return []
    explanation = (
        "Duplicate rate: 1 − distinct codes / items. Shared rate: share of items whose code "
        "another item has. Cosine: of the item and its sum of centroids."
    )
    header = ["items", *(label for label, _, _ in _COLLISIONS), "cosine"]
    return [Table("Collisions by slice", header, rows, explanation)]


def _neighbours(figures: Figures) -> list[Table]:
    names = figures.names(STAGE, "metric")
    metric = next((m for m in names if m.startswith("neighbour_overlap@")), None)
    if metric is None:
        return []
    rows = []
    for kind in ("rq", "vq"):
        chance = figures.get(STAGE, metric.replace("@", "_chance@"), kind)
        for where in figures.names(STAGE, "slice"):
            if figure := figures.get(STAGE, metric, kind, where):
                interval = "-"
                if figure.low is not None:
                    interval = f"{_three(figure.low)} to {_three(figure.high)}"
                cells = [thousands(figure.n), _three(figure.value), interval]
                cells.append(digits(chance.value) if chance else "-")
                name = f"{KINDS[kind]}, {where}"
                rows.append(Row(name, [Cell(cell) for cell in cells], minor=where != "all"))
    return [
        Table(
            f"Jaccard index of the {metric.partition('@')[2]} nearest items in code space and in "
            "vector space",
            ["queries", "overlap", "95 % interval", "chance"],
            rows,
            "Nearest in code space: for RQ by common prefix, then by the distance of the sums of "
            "centroids; for VQ by the number of shared anchors.",
        )
    ]


def _against_chance(
    figures: Figures, name: str, title: str, what: str, explanation: str
) -> list[Table]:
    """A figure and its chance level: one row per slice, one column per length of the prefix."""
    rows = []
    for where in figures.names(STAGE, "slice"):
        for part in figures.names(STAGE, "part"):
            values = _by_level(figures, f"rq_{name}", "rq", slice=where, part=part)
            chances = _by_level(figures, f"rq_{name}_chance", "rq", slice=where, part=part)
            if not values:
                continue
            notes = [percent(chance.value, 2) for chance in chances]
            notes += [""] * (len(values) - len(notes))
            cells = [Cell(thousands(values[0].n))]
            cells += [Cell(percent(v.value, 2), n) for v, n in zip(values, notes, strict=True)]
            source, _, kind = where.partition(" ")
            label = f"{SOURCES[source]}, {kind}" if source in SOURCES else kind
            rows.append(Row(label, cells))
    if not rows:
        return []
    rows = _padded(rows)
    header = [what, *(f"prefix of {n}" for n in range(1, len(rows[0].cells)))]
    return [Table(title, header, rows, explanation)]


def _change(figures: Figures, facts: Mapping[str, Any]) -> list[Table]:
    rows = _level_rows(figures, "rq", _CHANGE)
    if not rows:
        return []
    n = thousands(_by_level(figures, "rq_changed", "rq")[0].n)
    return [
        Table(
            f"Change by level since codebook {facts.get('before', '')}, {n} items in both",
            _numbers(rows),
            rows,
            "Numbers are comparable only if the codebooks are matched. The Rand index compares "
            "which items share a prefix, independent of its numbers.",
        )
    ]


def _plots(figures: Figures) -> list[tuple[str, str]]:
    series = {
        label: [(level, figure.value) for level, figure in enumerate(by_level, 1)]
        for metric, label in (
            ("rq_prefix_cosine", "items that share a prefix"),
            ("rq_cosine", "item and its sum of centroids"),
        )
        if (by_level := _by_level(figures, metric, "rq"))
    }
    if not series:
        return []
    plot = plots.lines(series, "levels of the prefix", "mean cosine")
    return [("Cosine by length of the prefix", plot)]
