"""What the report says of the drift test."""

from __future__ import annotations

import pytest

from qarm.report.figures import Figures
from qarm.report.findings import findings


@pytest.mark.parametrize(
    ("due", "tone", "words"),
    [(1.0, "bad", "A refit of the codebook is due."), (0.0, "plain", "No refit of the codebook")],
)
def test_says_whether_a_refit_is_due(due, tone, words) -> None:
    values = {
        "refit_due": due,
        "rq_drift_error_ratio": 1.234,
        "rq_drift_usage_shift": 0.0567,
        "rq_drift_dead": 0.02,
    }
    rows = [
        {"stage": "assign-codes", "metric": name, "variant": "rq", "slice": "all", "part": ""}
        | {"value": value, "n": 1500, "low": None, "high": None, "seed": None}
        for name, value in values.items()
    ]
    (found,) = findings(Figures(rows), 50, None)
    assert found.tone == tone
    assert found.text.startswith(words)
    assert "1,500 items are new or changed" in found.text
    assert "relative error is 1.23 times" in found.text
    assert "0.057 bits" in found.text
    assert "2.0 % more codes are unused" in found.text
    (nothing,) = findings(Figures(rows[1:]), 50, None)
    assert nothing.text == "Nothing has been evaluated yet."
