"""The page without Spark: sections from manifests and figures, rendered."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

import pytest

from qarm.pipeline.stages import STAGES
from qarm.report.aggregates import PairSource, Prefix
from qarm.report.figures import Figures
from qarm.report.findings import findings
from qarm.report.page import Published, build, render
from qarm.report.processor import processor_name

HOSTILE = '<img src=x onerror=alert(1)> & "quotes"'
PREFIXES = [Prefix((3, 17), 42, ["RED MUG", HOSTILE, "BLUE MUG"])] * 6


def mined() -> list[PairSource]:
    edges = [i / 40 for i in range(41)]
    counts = [(i * 7) % 40 for i in range(40)]
    return [
        PairSource(source, 9000, 3000, 3100, 2.0, source != "u2i", edges, counts, [900, 50])
        for source in ("swing", "u2i")
    ]


def page(manifests, metrics, *, pairs=None, prefixes=PREFIXES, **changes):
    config = {"a": HOSTILE}
    published = Published(
        name="Online Retail",
        as_of=datetime(2011, 12, 9),
        config=config,
        stages=[stage.name for stage in STAGES[:-1]],
        manifests=manifests,
        metrics=metrics,
        pairs=mined() if pairs is None else pairs,
        prefixes=prefixes,
        cutoff=50,
    )
    return build(replace(published, **changes))


@pytest.fixture(scope="module")
def html(manifests, metrics) -> str:
    return render(page(manifests, metrics, name=HOSTILE))


def test_whole_page_has_every_section_and_loads_nothing(html) -> None:
    assert html.count("<svg") == html.count("</svg>") == 12
    assert 'class="missing"' not in html
    assert not re.search(r"(src|href)=\"(?!#)", html.replace("xlink:href", "href"))
    assert not re.search(r"url\((?!#)", html)
    for text in (
        "400,000",
        "User2Item, warm",
        "1.40",
        "+ VQ and RQ codes",
        "Label top",
        "210",
        "12.34%",
        "1,210",
        f"Reported on: {processor_name()}.",
    ):
        assert text in html


def test_every_figure_of_the_codes_is_shown(html) -> None:
    section = html[html.index('id="codes"') : html.index('id="prefixes"')]
    for text in (
        "Codebook book: RQ levels none, 1,024 VQ anchors.",
        "Jaccard index of the 20 nearest",
        "<td>0.424</td><td>0.400 to 0.440</td>",
        "User2Item, warm",
        "7.89 %<small>0.12 %",
        "brand",
        "60.00 %<small>12.30 %",
        "since codebook older",
        "0.770",
        "RQ, known<small>an event of the training part</small>",
        "Left out: purity of &lt;shops&gt; (no table items).",
    ):
        assert text in section, text


def test_titles_reasons_and_settings_are_escaped(html) -> None:
    assert "<img" not in html
    assert "<script" not in html
    assert "&lt;img src=x onerror=alert(1)&gt; &amp;" in html


def test_page_is_the_same_every_time(html, manifests, metrics) -> None:
    assert render(page(manifests, metrics, name=HOSTILE)) == html


@pytest.mark.parametrize("there", [(), ("ingest",), ("ingest", "mine-pairs", "train-alignment")])
def test_missing_stages_are_said(manifests, metrics, there) -> None:
    known = {name: manifests[name] for name in there}
    figures = [m for m in metrics if m["stage"] in there]
    pairs = mined() if "mine-pairs" in there else []
    html = render(page(known, figures, prefixes=[], pairs=pairs))
    assert "Nothing has been evaluated yet." in html
    assert "Stage <code>evaluate</code> has not run in this lake" in html
    assert ("Stage <code>ingest</code> has not" in html) == ("ingest" not in there)


def test_says_plainly_what_is_not_better(manifests, metrics) -> None:
    by_start = {f.text.split(":")[0]: f for f in findings(Figures(metrics), 50, 3700)}
    assert "NOT significantly better than base" in by_start["Base + frozen vector"].text
    assert by_start["Base + VQ codes"].tone == "bad"
    assert "LOWER AUC than base" in by_start["Base + VQ codes"].text
    assert by_start["Base + RQ codes"].tone == "good"
    warm = by_start["User2Item pairs unknown to training"]
    assert warm.tone == "good"
    assert "1.40 times raw, 95 % interval 1.20 to 1.60" in warm.text
    assert "no significant difference" in by_start["Swing pairs unknown to training"].text


def test_a_base_below_the_floor_is_said(metrics) -> None:
    worse = {"value": -0.02, "low": -0.03, "high": -0.01}
    rows = [
        row | worse if (row["metric"], row["variant"]) == ("auc_gain", "base") else row
        for row in metrics
    ]
    assert any("WORSE than the floor" in f.text for f in findings(Figures(rows), 50, None))
