"""The page without Spark: sections from manifests and figures, rendered."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest

from qarm.pipeline.stages import STAGES
from qarm.report import code_section, sections
from qarm.report.aggregates import PairSource, Prefix
from qarm.report.figures import Figures
from qarm.report.findings import findings
from qarm.stages.report import render, stages, versions

SKEW = {
    "swing": {"items_capped": 1210, "share_of_score_mass_lost": 0.1234},
    "itemcf": {"users_capped": 0, "share_of_score_mass_lost": None},
}
HOSTILE = '<img src=x onerror=alert(1)> & "quotes"'


def mined() -> list[PairSource]:
    edges = [i / 40 for i in range(41)]
    counts = [(i * 7) % 40 for i in range(40)]
    return [
        PairSource(source, 9000, 3000, 3100, 2.0, source != "u2i", edges, counts, [900, 50])
        for source in ("swing", "u2i")
    ]


def page(manifests, metrics, **changes):
    figures = Figures(metrics)
    return {
        "name": "Online Retail",
        "version": "0.1.0",
        "as_of": datetime(2011, 12, 9),
        "findings": findings(figures, 50, 3700),
        "log": sections.log(manifests),
        "rows": sections.rows(manifests, [stage.name for stage in STAGES]),
        "pairs": sections.pairs(figures, mined(), SKEW),
        "alignment": sections.alignment(manifests, figures, 50),
        "codes": code_section.codes(manifests, figures),
        "prefixes": [Prefix((3, 17), 42, ["RED MUG", HOSTILE, "BLUE MUG"])] * 6,
        "ranker": sections.ranker(manifests, figures),
        "stages": stages(manifests),
        "versions": versions(),
        "config": json.dumps({"a": HOSTILE}),
        "variants": sections.VARIANTS,
        "sources": sections.SOURCES,
        "spaces": sections.SPACES,
        **changes,
    }


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
    ):
        assert text in html


def test_every_figure_of_the_codes_is_shown(html) -> None:
    section = html[html.index('id="codes"') : html.index('id="prefixes"')]
    for text in (
        "Jaccard index of the 20 nearest",
        "0.424",
        "User2Item, warm",
        "7.89 %<small>0.12 %",
        "brand",
        "60.00 %<small>12.30 %",
        "<code>older</code>",
        "0.770",
        "an event of the training part",
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
    empty = {} if "mine-pairs" in there else {"pairs": None}
    html = render(page(known, figures, prefixes=[], **empty))
    assert "Nothing has been evaluated yet." in html
    assert "stage <code>evaluate</code> has not published anything" in html
    assert ("stage <code>ingest</code> has not" in html) == ("ingest" not in there)


def test_says_plainly_what_is_not_better(manifests, metrics) -> None:
    by_start = {f.text.split(":")[0]: f for f in findings(Figures(metrics), 50, 3700)}
    assert "NOT better than base" in by_start["Base + frozen vector"].text
    assert by_start["Base + VQ codes"].tone == "bad"
    assert "LOWER AUC than base" in by_start["Base + VQ codes"].text
    assert by_start["Base + RQ codes"].tone == "good"
    warm = by_start["User2Item pairs nobody trained on"]
    assert warm.tone == "good"
    assert "1.40 times raw, 95 % interval 1.20 to 1.60" in warm.text
    assert "no difference that can be told" in by_start["Swing pairs nobody trained on"].text


def test_a_base_below_the_floor_is_said(metrics) -> None:
    worse = {"value": -0.02, "low": -0.03, "high": -0.01}
    rows = [
        row | worse if (row["metric"], row["variant"]) == ("auc_gain", "base") else row
        for row in metrics
    ]
    assert any("WORSE than two counts" in f.text for f in findings(Figures(rows), 50, None))
