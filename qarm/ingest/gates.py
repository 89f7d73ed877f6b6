"""Gates: what stops the run before anything is written."""

from __future__ import annotations

from collections.abc import Mapping

from qarm.config.data import Gates
from qarm.errors import GateError


def check_log(gates: Gates, rows: int, reasons: Mapping[str, int]) -> None:
    """Raise GateError where too large a share of the log, or all of it, is in quarantine.

    Args:
        gates: the limits.
        rows: raw rows.
        reasons: reason -> rows.
    """
    lost = sum(reasons.values())
    if rows and lost / rows > gates.max_quarantine_share:
        raise GateError(
            f"gates.max_quarantine_share: {lost:,} of {rows:,} log rows ({lost / rows:.1%}) cannot "
            f"be used, the limit is {gates.max_quarantine_share:.1%}. {_top(reasons)}. Nothing was "
            "published; mend the source or the settings under [log], or raise the limit"
        )
    if lost == rows:
        raise GateError(f"none of the {rows:,} log rows can be used. {_top(reasons)}")


def check_sizes(gates: Gates, interactions: int, items: int, reasons: Mapping[str, int]) -> None:
    """Raise GateError where there are fewer interactions or items than asked for."""
    for field, seen in (("min_interactions", interactions), ("min_items", items)):
        least = getattr(gates, field)
        if seen < least:
            raise GateError(
                f"gates.{field}: {seen:,} {field.removeprefix('min_')}, at least {least:,} are "
                f"asked for. {_top(reasons)}. Nothing was published"
            )


def _top(reasons: Mapping[str, int], n: int = 5) -> str:
    ranked = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:n]
    shown = ", ".join(f"{reason} {count:,}" for reason, count in ranked if count)
    return f"Reasons: {shown or 'none'}"
