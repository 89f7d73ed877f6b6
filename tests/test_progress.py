"""Progress on stderr."""

from __future__ import annotations

from qarm import progress


def test_a_line_has_the_seconds(capsys) -> None:
    progress.say("three rows")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(" s] three rows\n")


def test_a_bar_passes_all_items_and_is_silent_without_a_terminal(capsys) -> None:
    assert list(progress.bar(range(3), total=3, label="rows")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
