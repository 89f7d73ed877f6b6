"""The sections of the report, from manifests and figures; None if the stage has not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qarm.ingest.parts import PARTS
from qarm.lake.manifest import Manifest
from qarm.report import plots
from qarm.report.aggregates import PairSource
from qarm.report.figures import Figure, Figures
from qarm.report.findings import EVALUATE, SOURCES, VARIANTS, ordered

#: Vector spaces in the order of the recall plot, and their colours.
SPACES = {
    "chance": "chance",
    "raw": "raw, best",
    "aligned": "aligned",
    "id_vectors": "ID vectors",
}
#: Slices with fewer pairs are in the table but not in the plot.
MIN_PLOTTED = 30
_SPACE_COLORS = dict(
    zip(SPACES.values(), (plots.GREY, *plots.COLORS[1::-1], plots.COLORS[2]), strict=True)
)


@dataclass(frozen=True)
class Log:
    """The events that were read."""

    facts: Mapping[str, Any]
    parts: list[tuple[str, int, int]]
    """(part, events, positives)."""
    plots: list[tuple[str, str]]
    """(caption, SVG)."""


def log(manifests: Mapping[str, Manifest]) -> Log | None:
    """From the facts of ingest."""
    if "ingest" not in manifests:
        return None
    facts = manifests["ingest"].facts
    drawn = []
    described = facts.get("log", {})
    if "over_time" in described:
        by_time = facts.get("split", {}).get("kind") == "global"
        ends = {
            part: facts[f"{part}_end"]
            for part in ("mine", "train", "valid")
            if by_time and part in facts.get("parts", {}) and f"{part}_end" in facts
        }
        note = "" if ends else " (the split is not by date, so parts are not shaded)"
        drawn.append((f"Events over time{note}", plots.over_time(described["over_time"], ends)))
    if degrees := described.get("degrees"):
        curves = {f"of {name}": degrees[name] for name in ("users", "items") if name in degrees}
        drawn.append(
            (
                "Events per user and per item (percentiles)",
                plots.percentiles(curves, "events"),
            )
        )
    parts = [
        (part, int(n), int(facts.get("positives", {}).get(part, 0)))
        for part in PARTS
        if (n := facts.get("parts", {}).get(part))
    ]
    return Log(facts, parts, drawn)


@dataclass(frozen=True)
class Rows:
    """Rows of one stage."""

    stage: str
    counted: str
    rows_in: int
    added: dict[str, int]
    dropped: dict[str, int]
    rows_out: int
    first: bool
    """Whether it is the first row of the stage."""


def rows(manifests: Mapping[str, Manifest], stages: Sequence[str]) -> list[Rows]:
    """Every ledger of the ``stages`` that have run, in that order."""
    ledger_rows = []
    for stage in stages:
        if stage not in manifests:
            continue
        entry = manifests[stage].result
        ledgers = [{**entry, "name": entry.get("counted", "")}, *entry.get("ledgers", [])]
        for i, ledger in enumerate(ledgers):
            ledger_rows.append(
                Rows(
                    stage,
                    ledger["name"],
                    ledger["rows_in"],
                    _largest_first(ledger.get("added", {})),
                    _largest_first(ledger.get("dropped", {})),
                    ledger["rows_out"],
                    i == 0,
                )
            )
    return ledger_rows


def _largest_first(reasons: Mapping[str, int]) -> dict[str, int]:
    return {k: n for k, n in sorted(reasons.items(), key=lambda pair: -pair[1]) if n}


@dataclass(frozen=True)
class Pairs:
    """The mined pairs."""

    sources: list[tuple[str, PairSource, Figure | None]]
    """(name, counts, share of mined items with a pair)."""
    plots: list[tuple[str, str]]
    skew: list[tuple[str, list[tuple[str, str]]]]
    """(name, [(measure, value)]): effect of the caps."""


def pairs(
    figures: Figures, sources: Sequence[PairSource], skew: Mapping[str, Mapping[str, Any]]
) -> Pairs | None:
    """From ``aggregates.pair_sources``, and the coverage and skew measured by mine-pairs."""
    if not sources:
        return None
    parts = figures.names("mine-pairs", "part") or [""]
    drawn = []
    place = list(SOURCES).index
    sources = sorted(sources, key=lambda of: place(of.source) if of.source in SOURCES else 99)
    for color, of in zip(plots.COLORS, sources, strict=False):
        name = SOURCES.get(of.source, of.source)
        what = "mean cosine" if of.source == "u2i" else "score"
        what = f"log₁₀ {what}" if of.log_score else what
        drawn += [
            (f"{name}: {what}", plots.histogram(of.score_edges, of.score_counts, what, color)),
            (
                f"{name}: support",
                plots.powers_of_two(of.support_counts, "distinct users, from", color),
            ),
        ]
    listed = [
        (
            SOURCES.get(of.source, of.source),
            of,
            figures.get("mine-pairs", "item_coverage", of.source, "all", parts[0]),
        )
        for of in sources
    ]
    return Pairs(listed, drawn, [(SOURCES.get(s, s), _skew(facts)) for s, facts in skew.items()])


def _skew(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    measures = []
    for name, value in facts.items():
        what = name.replace("_", " ")
        if value is None:
            measures.append((what, "not estimated: no trigger of the sample has a pair"))
        else:
            measures.append((what, f"{value:.2%}" if name.startswith("share") else f"{value:,}"))
    return measures


@dataclass(frozen=True)
class Alignment:
    """Vectors before and after alignment."""

    cutoff: int
    table: list[tuple[str, str, int, dict[str, Figure], Figure | None]]
    """(source, warm or cold, number of pairs, space -> recall, ratio aligned / raw)."""
    spaces: list[str]
    plots: list[tuple[str, str]]
    facts: Mapping[str, Any]
    """Facts of the test pairs: candidates, pairs without a vector."""
    left_out: str
    """Why there is no table; empty if there is one."""


def alignment(manifests: Mapping[str, Manifest], figures: Figures, cutoff: int) -> Alignment | None:
    """New-pair recall from evaluate, and the training curves."""
    trained, evaluated = manifests.get("train-alignment"), manifests.get(EVALUATE)
    if trained is None and evaluated is None:
        return None
    facts = evaluated.facts.get("new_pairs", {}) if evaluated else {}
    metric = f"recall@{cutoff}"
    spaces = [v for v in figures.names(EVALUATE, "variant") if _recalled(figures, metric, v)]
    spaces = [s for s in SPACES if s in spaces] + sorted(set(spaces) - set(SPACES))
    table, groups = [], {}
    for source in ("u2i", "swing"):
        for kind in ("all", "warm", "cold"):
            where = f"{source} {kind}"
            recalls = {}
            for space in spaces:
                figure = figures.get(EVALUATE, metric, space, where, "test")
                if figure:
                    recalls[space] = figure
            if not recalls:
                continue
            ratio = figures.get(EVALUATE, f"recall_ratio@{cutoff}", "aligned/raw", where, "test")
            n = max(f.n for f in recalls.values())
            table.append((SOURCES[source], kind, n, recalls, ratio))
            if kind != "all" and n >= MIN_PLOTTED:
                shown = {label: recalls[s] for s, label in SPACES.items() if s in recalls}
                groups[f"{SOURCES[source]}\n{kind}\nn = {n:,}"] = shown
    drawn = []
    if groups:
        drawn.append(
            (
                f"Share of test pairs whose target is among the {cutoff} nearest to the trigger",
                plots.bars(groups, f"new-pair Recall@{cutoff}", _SPACE_COLORS),
            )
        )
    if trained and trained.facts.get("history"):
        drawn += _training_curves(trained.facts)
    left_out = facts.get("left_out", "") if evaluated else "stage evaluate has not run"
    if not table and not left_out:
        left_out = "the test part has no new pairs"
    return Alignment(cutoff, table, spaces, drawn, facts, left_out)


def _recalled(figures: Figures, metric: str, variant: str) -> bool:
    return any(
        figures.get(EVALUATE, metric, variant, f"{source} all", "test")
        for source in ("u2i", "swing")
    )


def _training_curves(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    history = facts["history"]
    epochs = [int(record["epoch"]) + 1 for record in history]
    drawn = []
    for name in sorted(k for k in history[0] if k.startswith("recall@")):
        points = list(zip(epochs, (record[name] for record in history), strict=True))
        if name in (facts.get("start") or {}):
            points.insert(0, (0, facts["start"][name]))
        best = int(facts.get("best_epoch", 0)) + 1
        kept = [point for point in points if point[0] == best]
        marks = {"epoch kept": kept[0]} if kept else {}
        drawn.append(
            (
                "Held-out training pairs during alignment (epoch 0: before training)",
                plots.lines({name: points}, "epoch", name, marks),
            )
        )
    if "train_loss" in history[0]:
        points = list(zip(epochs, (record["train_loss"] for record in history), strict=True))
        drawn.append(
            ("Contrastive loss", plots.lines({"loss": points}, "epoch", "loss (nats per pair)"))
        )
    return drawn


@dataclass(frozen=True)
class Head:
    """Figures of the ranker for one label."""

    name: str
    table: list[tuple[str, dict[str, Figure | None]]]
    """(variant, metric -> figure on test)."""
    slices: list[tuple[str, int, dict[str, Figure | None], dict[str, Figure | None]]]
    """(slice, samples, variant -> AUC, variant -> gain)."""
    variants: list[str]
    plots: list[tuple[str, str]]


@dataclass(frozen=True)
class Ranker:
    """Figures of the ranker for all labels."""

    heads: list[Head]
    trials: list[dict[str, Any]]
    slice_meanings: Mapping[str, str]
    head_events: int | None


def ranker(manifests: Mapping[str, Manifest], figures: Figures) -> Ranker | None:
    """From the metrics of evaluate and the trials of train-ranker."""
    evaluated = manifests.get(EVALUATE)
    trained = manifests.get("train-ranker")
    if evaluated is None:
        return None
    names = figures.names(EVALUATE, "metric")
    suffixes = ["", *sorted(m.removeprefix("auc") for m in names if m.startswith("auc["))]
    meanings = dict(evaluated.facts.get("slices", []))
    heads = [_head(figures, suffix, list(meanings)) for suffix in suffixes]
    return Ranker(
        [head for head in heads if head.table],
        list(trained.facts.get("trials", [])) if trained else [],
        meanings,
        evaluated.facts.get("head_events"),
    )


def _head(figures: Figures, suffix: str, slices: Sequence[str]) -> Head:
    def get(metric: str, variant: str, where: str = "all", part: str = "test") -> Figure | None:
        return figures.get(EVALUATE, metric + suffix, variant, where, part)

    variants = ordered([v for v in figures.names(EVALUATE, "variant") if get("auc", v)])
    metrics = ("auc", "auc_gain", "uauc", "gauc", "log_loss")
    table = [
        (v, {**{m: get(m, v) for m in metrics}, "valid": get("auc", v, part="valid")})
        for v in variants
    ]
    by_slice, gains = [], {}
    for where in slices:
        aucs = {v: get("auc", v, where) for v in variants}
        if not any(aucs.values()):
            continue
        gain = {v: get("auc_gain", v, where) for v in variants}
        n = max(f.n for f in aucs.values() if f)
        by_slice.append((where, n, aucs, gain))
        shown = {VARIANTS.get(v, v): g for v, g in gain.items() if g and v not in ("floor", "base")}
        if shown:
            gains[f"{where} (n = {n:,})"] = shown
    drawn = []
    if gains:
        drawn.append(
            (
                "Gain over base by slice; lines are 95 % intervals over users",
                plots.forest(gains, "difference in AUC to base"),
            )
        )
    return Head(suffix.strip("[]"), table, by_slice, variants, drawn)
