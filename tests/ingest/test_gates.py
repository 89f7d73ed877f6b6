"""What a gate counts, and what it says when it stops the run."""

from __future__ import annotations

import pytest

from qarm.config.gates import Gates
from qarm.errors import GateError
from qarm.ingest import gates


def nothing(reasons):
    raise AssertionError(f"no gate fires, but examples of {reasons} were asked for")


def test_rows_left_out_on_purpose_are_no_part_of_the_share() -> None:
    reasons = {"null_user": 2, "return": 30, "not_selected": 50}
    gates.check_log(Gates(max_quarantine_share=0.1), 100, reasons, nothing)  # 2 of 20
    with pytest.raises(GateError, match=r"2 of 20 log rows \(10\.0%\)") as caught:
        gates.check_log(Gates(max_quarantine_share=0.09), 100, reasons, lambda _: {})
    assert "not_selected" not in str(caught.value)
    with pytest.raises(GateError, match="none of the 80 log rows") as caught:
        gates.check_log(Gates(), 80, {"return": 30, "not_selected": 50}, lambda _: {})
    assert "log.rows" in str(caught.value)
    assert "log.returns" in str(caught.value)


def test_the_most_frequent_reasons_have_an_example() -> None:
    asked = []

    def examples(reasons):
        asked.append(list(reasons))
        return {"unknown_item": "'1.0'", "unparsable_time": "'yesterday'"}

    reasons = {
        "malformed_row": 1,
        "null_user": 2,
        "null_item": 3,
        "unparsable_time": 4,
        "unknown_item": 5,
        "bad_value": 6,
    }
    with pytest.raises(GateError) as caught:
        gates.check_sizes(Gates(min_items=2), 1, 1, reasons, examples)
    assert asked == [["bad_value", "unknown_item", "unparsable_time", "null_item", "null_user"]]
    message = str(caught.value)
    assert "unknown_item 5 (such as '1.0'; see log.item, items.id" in message
    assert "unparsable_time 4 (such as 'yesterday'; see log.time and log.time_format)" in message
    assert "null_item 3 (see log.item and log.null_words)" in message
