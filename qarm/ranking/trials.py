"""Records of the ranker's trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What depends on the machine's speed; shown, but never part of a result.
_TIMINGS = ("seconds", "rows_per_second", "input_wait_share")


def repeatable(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The trial's record as it is in every run."""
    return {name: value for name, value in trial.items() if name not in _TIMINGS}
