"""The tables' reference page says what the schemas say."""

from __future__ import annotations

from pathlib import Path

from schemas import TABLES
from schemas.describe import describe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tables.md"


def test_page_is_up_to_date() -> None:
    assert describe() in PAGE.read_text(), "make docs/tables.md anew: make docs"


def test_every_column_has_a_meaning() -> None:
    for table in TABLES.values():
        assert table.comment
        assert set(table.key) <= set(table.column_names)
        for column in table.columns:
            assert len(column.comment) > 3, f"{table.name}.{column.name}"


def test_unknown_table_lists_the_known() -> None:
    assert "items" in describe("itemz")
