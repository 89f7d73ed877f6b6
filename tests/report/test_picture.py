"""The picture of a report: its own plots, in one SVG that any XML reader takes."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from qarm.report import picture
from qarm.report.page import render
from tests.report.test_page import page

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def html(manifests, metrics) -> str:
    return render(page(manifests, metrics))


def test_plots_of_the_report_under_their_captions(html, tmp_path) -> None:
    (tmp_path / "report.html").write_text(html)
    assert picture.main([str(tmp_path / "report.html"), str(tmp_path / "out.svg")]) == 0
    root = ElementTree.parse(tmp_path / "out.svg").getroot()
    plots = [child for child in root if child.tag == f"{SVG}svg"]
    captions = [child.text for child in root if child.tag == f"{SVG}text"]
    assert len(plots) == len(captions) == len(picture.SHOWN)
    for start, caption in zip(picture.SHOWN, captions, strict=True):
        assert caption.startswith(start)
    places = {(plot.get("x"), plot.get("y")) for plot in plots}
    assert len(places) == len(plots)
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))


def test_no_report_or_no_plots(tmp_path, capsys) -> None:
    out = tmp_path / "out.svg"
    assert picture.main([str(tmp_path / "none.html"), str(out)]) != 0
    assert "no report at" in capsys.readouterr().err
    (tmp_path / "empty.html").write_text("<html></html>")
    assert picture.main([str(tmp_path / "empty.html"), str(out)]) != 0
    assert "run all stages first" in capsys.readouterr().err
    assert not out.exists()
