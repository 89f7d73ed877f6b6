"""Rows must add up."""

from __future__ import annotations

import pytest

from qarm.errors import RowsLostError
from qarm.ledger import Ledger


def test_rows_in_and_added_are_rows_out_and_dropped() -> None:
    Ledger(name="x", rows_in=5, rows_out=7, dropped={"a": 1}, added={"negatives": 3}).close("s")
    with pytest.raises(RowsLostError, match=r"s, x: 5 rows in .* -1 unaccounted"):
        Ledger(name="x", rows_in=5, rows_out=6).close("s")
