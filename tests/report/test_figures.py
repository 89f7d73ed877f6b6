"""Figures over seeds, and numbers for people."""

from __future__ import annotations

import pytest

from qarm.report import figures
from qarm.report.figures import Figures

ROW = {"stage": "evaluate", "metric": "auc", "variant": "base", "slice": "all", "part": "test"}


def test_seeds_become_mean_and_deviation() -> None:
    rows = [
        {**ROW, "value": v, "n": 10, "low": v - 0.1, "high": v + 0.1, "seed": s}
        for s, v in enumerate((0.7, 0.8, 0.9))
    ]
    found = Figures(rows).get("evaluate", "auc", "base", "all", "test")
    assert found.value == pytest.approx(0.8)
    assert found.deviation == pytest.approx(0.1)
    assert (found.low, found.high) == (pytest.approx(0.7), pytest.approx(0.9))
    assert found.seeds == 3
    assert Figures(rows).get("evaluate", "auc", "rq", "all", "test") is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "unclear"), (None, None, "unclear")],
)
def test_verdict_needs_an_interval_beside_zero(low, high, verdict) -> None:
    assert figures.Figure(0.5, 1, low, high).verdict == verdict


def test_numbers_for_people() -> None:
    assert figures.signed(-0.00123) == "−0.0012"
    assert figures.digits(float("nan")) == "–"
    assert figures.thousands(1234567) == "1,234,567"
    assert figures.percent(0.0523) == "5.2 %"
    assert (figures.duration(12.34), figures.duration(200)) == ("12.3 s", "3 min 20 s")
