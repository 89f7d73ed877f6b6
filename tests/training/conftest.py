"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import ranks


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Four files of uneven row groups, 144 rows."""
    return ranks.write_files(tmp_path / "data", ranks.LAYOUT)
