"""Column names: one home for those that several tables share."""

from __future__ import annotations

from collections import Counter

from schemas import TABLES, columns

SHARED = {value for name, value in vars(columns).items() if name.isupper() and name != "EVENT_KEY"}
#: Partial results that a miner keeps for itself.
_PARTIAL = ("itemcf_", "u2i_", "swing_")


def _public() -> list[str]:
    return [name for name in TABLES if not name.startswith(_PARTIAL)]


def test_names_of_two_tables_stand_in_one_place() -> None:
    uses = Counter(column for name in _public() for column in TABLES[name].column_names)
    assert {name for name, tables in uses.items() if tables > 1} == SHARED


def test_an_event_is_named_by_the_same_columns_in_both_tables() -> None:
    for name in ("interactions", "event_splits"):
        assert set(columns.EVENT_KEY) <= set(TABLES[name].column_names)


def test_indices_and_ids_have_one_type() -> None:
    for name in _public():
        for column in TABLES[name].columns:
            if column.name in (columns.ITEM_IDX, columns.USER_IDX):
                assert column.type == "bigint"
            elif column.name in (columns.ITEM_ID, columns.USER_ID):
                assert column.type == "string"
