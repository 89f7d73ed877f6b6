"""Plots as inline SVG, whose text and axes have the text colour of the page (light or dark)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from qarm.report.figures import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Legible on white and on near-black.
COLORS = ("#4c86d9", "#e08b2d", "#2fa37a", "#b46fc4", "#d2575f", "#8a8f98")
GREY = COLORS[-1]
#: Placeholder for the text colour of the page.
_INK = "#0b0c0d"
_PARTS = {"mine": "#b46fc4", "train": "#4c86d9", "valid": "#e08b2d", "test": "#2fa37a"}


def svg(
    draw: Callable[[Axes], None], *, width: float = 5.6, height: float = 2.7, label: str = ""
) -> str:
    """One plot as an ``<svg>`` element; equal input gives equal bytes.

    Args:
        draw: draws on the axes.
        width: inches.
        height: inches.
        label: text for screen readers.
    """
    import matplotlib

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "qarm",
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.15,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        **{f"axes.{k}": _INK for k in ("edgecolor", "labelcolor", "titlecolor")},
        **dict.fromkeys(("text.color", "xtick.color", "ytick.color", "grid.color"), _INK),
    }
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        out = io.StringIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None}
        canvas.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", text)
    # The page sets the size.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    escaped = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg", f'<svg role="img" aria-label="{escaped}"', 1)


def over_time(log: Mapping[str, Any], ends: Mapping[str, str], unit: str = "events") -> str:
    """Events per day (or bucket of days), with the parts of a global split shaded.

    Args:
        log: start (ISO date), bucket_days, counts.
        ends: part -> ISO time at which it ends; empty if parts are not periods.
        unit: what is counted.
    """
    start = date.fromisoformat(log["start"])
    width = int(log["bucket_days"])
    days = [start + timedelta(days=width * i) for i in range(len(log["counts"]))]

    def draw(axes: Any) -> None:  # matplotlib's types lack dates
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        axes.fill_between(days, log["counts"], step="post", color=COLORS[0], alpha=0.8, lw=0)
        axes.set_ylabel(f"{unit} per day" if width == 1 else f"{unit} per {width} days")
        axes.set_ylim(bottom=0)
        begin = start
        for part, end in [*ends.items(), ("test", None)] if ends else []:
            stop = date.fromisoformat(end[:10]) if end else days[-1] + timedelta(days=width)
            if stop > begin:
                axes.axvspan(begin, stop, color=_PARTS[part], alpha=0.13, lw=0, label=part)
            begin = max(begin, stop)
        if ends:
            axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
        locator = AutoDateLocator(minticks=3, maxticks=7)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))

    return svg(draw, label=f"{unit} over time")


def percentiles(of: Mapping[str, Mapping[str, float]], ylabel: str) -> str:
    """Percentile curves on a logarithmic axis: name -> {"p0": ..., "p100": ...}."""

    def draw(axes: Axes) -> None:
        for color, (name, values) in zip(COLORS, of.items(), strict=False):
            points = sorted((float(k[1:]), v) for k, v in values.items() if re.match(r"p[\d.]", k))
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, color=color, label=name)
        axes.set_yscale("log")
        axes.set_ylabel(ylabel)
        axes.set_xlabel("percentile")
        axes.legend()

    return svg(draw, label=f"{ylabel} by percentile")


def histogram(edges: Sequence[float], counts: Sequence[int], xlabel: str, color: str) -> str:
    """Counts per bucket; ``edges`` has one more entry than ``counts``."""

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=color, alpha=0.85)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("pairs")

    return svg(draw, width=3.6, height=2.1, label=f"histogram of {xlabel}")


def powers_of_two(counts: Sequence[int], xlabel: str, color: str) -> str:
    """Counts of values in [2^i, 2^(i+1)), one bar each, labelled with the lowest value."""

    def draw(axes: Axes) -> None:
        axes.bar(range(len(counts)), counts, width=0.85, color=color, alpha=0.85)
        labelled = range(0, len(counts), 1 if len(counts) <= 8 else 2)
        axes.set_xticks(labelled, [f"{1 << i}" for i in labelled])
        axes.set_xlabel(xlabel)
        axes.set_ylabel("pairs")
        axes.grid(axis="x", visible=False)

    return svg(draw, width=3.6, height=2.1, label=f"histogram of {xlabel}")


def bars(
    groups: Mapping[str, Mapping[str, Figure]], ylabel: str, colors: Mapping[str, str] | None = None
) -> str:
    """Grouped bars with intervals: group -> name -> figure."""
    names = list(dict.fromkeys(name for figures in groups.values() for name in figures))
    tones = {**dict(zip(names, COLORS * 3, strict=False)), **(colors or {})}

    def draw(axes: Axes) -> None:
        width = 0.82 / max(len(names), 1)
        for at, figures in enumerate(groups.values()):
            for i, name in enumerate(names):
                if name not in figures:
                    continue
                x = at + (i - (len(names) - 1) / 2) * width
                f = figures[name]
                axes.bar(x, f.value, width * 0.92, color=tones[name], label=name if at == 0 else "")
                if f.low is not None and f.high is not None:
                    axes.plot([x, x], [max(f.low, 0), f.high], color=_INK, lw=1, alpha=0.7)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_ylabel(ylabel)
        axes.grid(axis="x", visible=False)
        handles = {name: tones[name] for name in names}
        from matplotlib.patches import Patch

        axes.legend(
            handles=[Patch(color=c, label=n) for n, c in handles.items()],
            ncols=min(4, len(handles)),
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            fontsize=8.5,
        )

    return svg(draw, height=3.1, label=ylabel)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Lines through points; ``marks`` are single points, such as the selected epoch."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for color, (name, points) in zip(COLORS * 3, series.items(), strict=False):
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, color=color, label=name)
        for name, (x, y) in (marks or {}).items():
            axes.plot([x], [y], "o", ms=9, mfc="none", mec=_INK, label=name)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(series) > 1 or marks:
            axes.legend(fontsize=8.5)

    return svg(draw, height=2.5, label=f"{ylabel} by {xlabel}")


def forest(rows: Mapping[str, Mapping[str, Figure]], xlabel: str) -> str:
    """Differences with intervals: slice -> variant -> figure, with a line at 0."""
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    tones = dict(zip(names, COLORS * 3, strict=False))

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        step = 0.7 / max(len(names), 1)
        for at, figures in enumerate(rows.values()):
            for i, name in enumerate(names):
                if name not in figures:
                    continue
                f, y = figures[name], at + (i - (len(names) - 1) / 2) * step
                if f.low is not None and f.high is not None:
                    axes.plot([f.low, f.high], [y, y], color=tones[name], lw=2, alpha=0.75)
                axes.plot([f.value], [y], "o", ms=4.5, color=tones[name])
        axes.axvline(0, color=_INK, lw=1, alpha=0.6)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.invert_yaxis()
        axes.set_xlabel(xlabel)
        axes.grid(axis="y", visible=False)
        from matplotlib.lines import Line2D

        axes.legend(
            handles=[Line2D([], [], marker="o", color=tones[n], label=n) for n in names],
            ncols=min(2, len(names)),
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            fontsize=8.5,
        )

    height = 1.1 + 0.14 * len(rows) * max(len(names), 2)
    return svg(draw, height=height, label=xlabel)
