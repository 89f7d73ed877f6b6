"""Plots as SVG elements of a page."""

from __future__ import annotations

from xml.etree import ElementTree

from qarm.report import plots
from qarm.report.figures import Figure


def test_svg_takes_the_colour_and_size_of_the_page() -> None:
    text = plots.lines({"a": [(1, 2.0), (2, 3.0)]}, "level", "cosine <x>", {"best": (1, 2.0)})
    root = ElementTree.fromstring(text)
    assert "width" not in root.attrib
    assert "height" not in root.attrib
    assert root.get("aria-label") == "cosine <x> by level"
    assert "currentColor" in text
    assert plots._INK not in text
    assert "<metadata" not in text
    again = plots.lines({"a": [(1, 2.0), (2, 3.0)]}, "level", "cosine <x>", {"best": (1, 2.0)})
    assert again == text


def test_parts_of_a_global_split_are_in_the_legend() -> None:
    log = {"start": "2020-01-01", "bucket_days": 7, "counts": [3, 4, 5]}
    ends = {"train": "2020-01-08T00:00:00", "valid": "2020-01-15T00:00:00"}
    text = plots.over_time(log, ends)
    assert all(f">{part}<" in text for part in ("train", "valid", "test"))
    assert "events per 7 days" in text
    assert ">train<" not in plots.over_time(log, {})


def test_bars_without_an_interval_or_a_figure() -> None:
    groups = {"u2i": {"raw": Figure(0.1, 5), "aligned": Figure(0.2, 5, 0.1, 0.3)}, "swing": {}}
    text = plots.bars(groups, "recall")
    assert ">aligned<" in text
    assert ">swing<" in text
