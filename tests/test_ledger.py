"""Rows must add up."""

from __future__ import annotations

import pytest

from qarm.errors import RowsLostError
from qarm.ledger import Ledger


def test_rows_in_and_added_are_rows_out_and_dropped() -> None:
    Ledger(name="x", rows_in=5, rows_out=7, dropped={"a": 1}, added={"negatives": 3}).close("s")
    with pytest.raises(RowsLostError, match=r"s, x: 5 rows in .* -1 unaccounted"):
        Ledger(name="x", rows_in=5, rows_out=6).close("s")


def test_a_count_is_never_negative() -> None:
    with pytest.raises(RowsLostError, match=r"s, x: counts of rows are never negative.*'b': -1"):
        Ledger(name="x", rows_in=5, rows_out=4, dropped={"a": 2, "b": -1}).close("s")
