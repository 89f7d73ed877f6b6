"""A small codebook and the items that have its codes."""

from __future__ import annotations

import pytest

from qarm.codes.codebook import Codebook
from qarm.ranking.item_table import ItemTable
from tests.ranking.batches import make_book, make_table


@pytest.fixture(scope="session")
def book() -> Codebook:
    return make_book()


@pytest.fixture(scope="session")
def table(book: Codebook) -> ItemTable:
    return make_table(book)
