"""The report's section on codes, from the figures of stage quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qarm.lake.manifest import Manifest
from qarm.report import plots
from qarm.report.figures import Figure, Figures
from qarm.report.findings import SOURCES

STAGE = "quality"
_KINDS = {"rq": "RQ", "rq_resolved": "RQ, resolved", "vq": "VQ"}
_USE = ("utilisation", "dead", "entropy", "perplexity", "gini")
_LEFT = ("reconstruction_error", "relative_error", "cosine", "prefix_cosine")
_CHANGE = ("changed", "prefix_changed", "adjusted_rand", "nmi")
_RATES = ("duplicate_rate", "shared_rate", "items_per_code", "largest_code")

#: A row of figures beside their chance level, by length of the prefix: (name, n, pairs of both).
AgainstChance = tuple[str, int, list[tuple[Figure | None, Figure | None]]]


@dataclass(frozen=True)
class Codes:
    """How good the codes are."""

    levels: list[tuple[str, list[dict[str, Figure | None]]]]
    """(kind, a dict a level: utilisation, dead, entropy, perplexity, gini, reconstruction_error,
    relative_error, cosine, prefix_cosine)."""
    any_two: Figure | None
    """Mean cosine of any two items."""
    collisions: list[tuple[str, str, dict[str, Figure | None]]]
    """(kind, slice, duplicate_rate, shared_rate, items_per_code, largest_code)."""
    anchors: dict[str, Figure | None]
    neighbours: list[tuple[str, str, Figure, Figure | None]]
    """(kind, slice, overlap, chance)."""
    neighbours_compared: str
    pairs: list[AgainstChance]
    purity: list[AgainstChance]
    change: list[dict[str, Figure | None]]
    """A dict a level: changed, prefix_changed, adjusted_rand, nmi."""
    meanings: Mapping[str, str]
    """Slice -> what is in it."""
    plots: list[tuple[str, str]]
    facts: Mapping[str, Any]


def codes(manifests: Mapping[str, Manifest], figures: Figures) -> Codes | None:
    """From the metrics and facts of stage quality."""
    if STAGE not in manifests:
        return None
    facts = manifests[STAGE].facts
    levels = [
        (_KINDS[kind], found)
        for kind in ("rq", "rq_resolved")
        if (found := _by_level(figures, kind, (*_USE, *_LEFT)))
    ]
    collisions = []
    for kind, title in _KINDS.items():
        for where in figures.names(STAGE, "slice"):
            row = {rate: figures.get(STAGE, rate, kind, where) for rate in _RATES}
            if row["duplicate_rate"]:
                collisions.append((title, where, row))
    overlap = [m for m in figures.names(STAGE, "metric") if m.startswith("neighbour_overlap@")]
    metric = overlap[0] if overlap else "neighbour_overlap@0"
    neighbours = []
    for kind in ("rq", "vq"):
        chance = figures.get(STAGE, metric.replace("@", "_chance@"), kind)
        for where in figures.names(STAGE, "slice"):
            if figure := figures.get(STAGE, metric, kind, where):
                neighbours.append((_KINDS[kind], where, figure, chance))
    return Codes(
        levels=levels,
        any_two=figures.get(STAGE, "rq_prefix_cosine_l0", "rq"),
        collisions=collisions,
        anchors={k: figures.get(STAGE, f"vq_{k}_first", "vq") for k in _USE},
        neighbours=neighbours,
        neighbours_compared=metric.partition("@")[2],
        pairs=_against_chance(figures, "pair_agreement", "test"),
        purity=_against_chance(figures, "purity", ""),
        change=_by_level(figures, "rq", _CHANGE),
        meanings=dict(facts.get("slices", [])),
        plots=_plots(levels),
        facts=facts,
    )


def _by_level(
    figures: Figures, kind: str, names: tuple[str, ...]
) -> list[dict[str, Figure | None]]:
    """A dict a level, as far as the first of ``names`` goes."""
    found: list[dict[str, Figure | None]] = []
    while figures.get(STAGE, f"{kind}_{names[0]}_l{len(found) + 1}", kind):
        suffix = f"_l{len(found) + 1}"
        found.append({n: figures.get(STAGE, f"{kind}_{n}{suffix}", kind) for n in names})
    return found


def _against_chance(figures: Figures, name: str, part: str) -> list[AgainstChance]:
    found = []
    for where in figures.names(STAGE, "slice"):
        row: list[tuple[Figure | None, Figure | None]] = []
        while figure := figures.get(STAGE, f"rq_{name}_l{len(row) + 1}", "rq", where, part):
            chance = f"rq_{name}_chance_l{len(row) + 1}"
            row.append((figure, figures.get(STAGE, chance, "rq", where, part)))
        if row and row[0][0]:
            source, _, kind = where.partition(" ")
            label = f"{SOURCES[source]}, {kind}" if source in SOURCES else kind
            found.append((label, row[0][0].n, row))
    return found


def _plots(levels: list[tuple[str, list[dict[str, Figure | None]]]]) -> list[tuple[str, str]]:
    found = levels[0][1] if levels else []
    series = {
        label: [(i, f.value) for i, level in enumerate(found, 1) if (f := level[key])]
        for key, label in (
            ("prefix_cosine", "items that share a prefix"),
            ("cosine", "item and its sum of centroids"),
        )
    }
    series = {label: points for label, points in series.items() if points}
    if not series:
        return []
    plot = plots.lines(series, "levels of the prefix", "mean cosine")
    return [("Longer prefixes mean nearer items", plot)]
