"""The run in sentences: what improved, what did not, and how significant that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qarm.report.figures import Figures, digits, percent, signed

EVALUATE = "evaluate"
VARIANTS = {
    "floor": "floor",
    "base": "base",
    "vector": "+ frozen vector",
    "vq": "+ VQ codes",
    "rq": "+ RQ codes",
    "vq_rq": "+ VQ and RQ codes",
}
SOURCES = {"u2i": "User2Item", "swing": "Swing", "itemcf": "ItemCF", "user": "your own"}


@dataclass(frozen=True)
class Finding:
    """One sentence."""

    tone: str
    """good, bad or plain."""
    text: str


def findings(figures: Figures, cutoff: int, items: int | None) -> list[Finding]:
    """The main results, in the order of the pipeline.

    Args:
        figures: the metrics of all stages.
        cutoff: k of new-pair Recall@k.
        items: number of items of the catalogue, if known.
    """
    results = [
        *_vectors(figures, cutoff),
        *_codes(figures, items),
        *_drift(figures),
        *_base(figures),
        *_content(figures),
    ]
    return results or [Finding("plain", "Nothing has been evaluated yet.")]


def _vectors(figures: Figures, cutoff: int) -> Iterator[Finding]:
    for source in ("u2i", "swing"):
        where = f"{source} warm"
        aligned, raw, chance = (
            figures.get(EVALUATE, f"recall@{cutoff}", v, where, "test")
            for v in ("aligned", "raw", "chance")
        )
        if aligned is None or raw is None or chance is None:
            continue
        ratio = figures.get(EVALUATE, f"recall_ratio@{cutoff}", "aligned/raw", where, "test")
        text = (
            f"{SOURCES[source]} pairs unknown to training: with aligned vectors "
            f"{percent(aligned.value)} of targets are among the {cutoff} items nearest to the "
            f"trigger, with the best raw vectors {percent(raw.value)}, by chance "
            f"{percent(chance.value)}"
        )
        if ratio is None:
            yield Finding("plain", text + ".")
            continue
        span = f", 95 % interval {ratio.low:.2f} to {ratio.high:.2f}" if ratio.low else ""
        low, high = ratio.low or ratio.value, ratio.high or ratio.value
        if low > 1:
            yield Finding("good", f"{text}: {ratio.value:.2f} times raw{span}.")
        elif high < 1:
            yield Finding("bad", f"{text}: alignment is worse, {ratio.value:.2f} times raw{span}.")
        else:
            yield Finding(
                "plain", f"{text}: no significant difference, {ratio.value:.2f} times raw{span}."
            )


def _codes(figures: Figures, items: int | None) -> Iterator[Finding]:
    shared = figures.get("quality", "shared_rate", "rq")
    duplicate = figures.get("quality", "duplicate_rate", "rq")
    if shared is None or duplicate is None:
        return
    of = f" of {items:,} items" if items else ""
    yield Finding(
        "plain",
        f"{percent(shared.value)}{of} share their full RQ code with another item; the number of "
        f"distinct codes is {percent(1 - duplicate.value)} of the number of items.",
    )


def _drift(figures: Figures) -> Iterator[Finding]:
    due, ratio, shift, dead = (
        figures.get("assign-codes", name, "rq")
        for name in ("refit_due", "rq_drift_error_ratio", "rq_drift_usage_shift", "rq_drift_dead")
    )
    if due is None or ratio is None or shift is None or dead is None:
        return
    text = (
        f"{ratio.n:,} items are new or changed since the codebook was fitted. Their relative error "
        f"is {ratio.value:.2f} times that of the items held out then, the use of level-1 codes has "
        f"shifted by {shift.value:.3f} bits more than by chance, and {percent(dead.value)} more "
        "codes are unused"
    )
    if due.value:
        yield Finding("bad", f"A refit of the codebook is due. {text}.")
    else:
        yield Finding("plain", f"No refit of the codebook is due. {text}.")


def _base(figures: Figures) -> Iterator[Finding]:
    base = figures.get(EVALUATE, "auc", "base", "all", "test")
    floor = figures.get(EVALUATE, "auc", "floor", "all", "test")
    gain = figures.get(EVALUATE, "auc_gain", "base", "all", "test")
    if base is None or floor is None or gain is None:
        return
    text = (
        f"The base ranker's AUC is {digits(base.value)}; the floor, a logistic regression on "
        f"smoothed rates, has {digits(floor.value)}"
    )
    verdict = {
        "better": ("good", "the base is better"),
        "worse": ("bad", "the base is WORSE than the floor, so gains over it mean little"),
        "unclear": ("bad", "the base is NOT significantly better"),
    }
    tone, words = verdict[gain.verdict]
    yield Finding(tone, f"{text}: {words} ({_interval(gain.value, gain.low, gain.high)}).")


def _content(figures: Figures) -> Iterator[Finding]:
    for variant, name in VARIANTS.items():
        if variant in ("floor", "base"):
            continue
        gain = figures.get(EVALUATE, "auc_gain", variant, "all", "test")
        if gain is None:
            continue
        words = {
            "better": ("good", "a higher AUC than base"),
            "worse": ("bad", "a LOWER AUC than base"),
            "unclear": ("plain", "NOT significantly better than base"),
        }
        tone, verdict = words[gain.verdict]
        rare = figures.get(EVALUATE, "auc_gain", variant, "tail", "test")
        clear = rare is not None and rare.verdict != "unclear"
        tail = f"; on rare items {rare.verdict}, {signed(rare.value)}" if rare and clear else ""
        yield Finding(
            tone,
            f"Base {name}: {verdict} ({_interval(gain.value, gain.low, gain.high)}{tail}).",
        )


def _interval(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return signed(value)
    return f"{signed(value)} AUC, 95 % interval {signed(low)} to {signed(high)}"


def ordered(names: Sequence[str]) -> list[str]:
    """Variants in the order of ``VARIANTS``; unknown ones last."""
    known = [v for v in VARIANTS if v in names]
    return known + sorted(set(names) - set(known))
