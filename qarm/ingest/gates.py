"""Gates: limits that stop the run before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qarm.config.gates import Gates
from qarm.errors import GateError
from qarm.ingest.log import DELIBERATE

#: Reasons -> one example of each that has one; called only if a gate stops the run.
Examples = Callable[[Sequence[str]], Mapping[str, str]]

_SHOWN = 5
#: Reason -> the settings that may be wrong.
_SETTINGS = {
    "malformed_row": "log.csv_options",
    "bad_id": "log.user and log.item: ids are text or whole numbers",
    "null_user": "log.user and log.null_words",
    "null_item": "log.item and log.null_words",
    "null_event": "log.event",
    "unparsable_time": "log.time and log.time_format",
    "future_time": "log.as_of and log.time_format",
    "return": "log.returns",
    "not_selected": "log.rows",
    "unknown_item": "log.item, items.id and items.unknown",
    "bad_value": "log.value and log.weight",
}


def check_log(gates: Gates, rows: int, reasons: Mapping[str, int], examples: Examples) -> None:
    """Raise GateError if too large a share of the log, or all of it, goes to quarantine.

    Rows that log.rows or log.returns exclude do not count.

    Args:
        gates: the limits.
        rows: raw rows.
        reasons: reason -> rows.
        examples: returns examples of the most frequent reasons.
    """
    wanted = rows - sum(reasons.get(reason, 0) for reason in DELIBERATE)
    lost = sum(count for reason, count in reasons.items() if reason not in DELIBERATE)
    if wanted and lost / wanted > gates.max_quarantine_share:
        unfit = {reason: n for reason, n in reasons.items() if reason not in DELIBERATE}
        raise GateError(
            f"gates.max_quarantine_share: {lost:,} of {wanted:,} log rows ({lost / wanted:.1%}) "
            f"cannot be used, the limit is {gates.max_quarantine_share:.1%}. "
            f"{_top(unfit, examples)}. Nothing was published; correct the source or these "
            "settings, or raise the limit"
        )
    if sum(reasons.values()) == rows:
        raise GateError(
            f"none of the {rows:,} log rows can be used, expected at least one. "
            f"{_top(reasons, examples)}. Nothing was published; correct the source or these "
            "settings"
        )


def check_sizes(
    gates: Gates, interactions: int, items: int, reasons: Mapping[str, int], examples: Examples
) -> None:
    """Raise GateError if there are fewer interactions or items than the gates require."""
    for field, seen in (("min_interactions", interactions), ("min_items", items)):
        least = getattr(gates, field)
        if seen < least:
            raise GateError(
                f"gates.{field}: {seen:,} {field.removeprefix('min_')}, expected at least "
                f"{least:,}. {_top(reasons, examples)}. Nothing was published; correct the source "
                f"or the settings, or lower gates.{field}"
            )


def _top(reasons: Mapping[str, int], examples: Examples) -> str:
    ranked = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:_SHOWN]
    ranked = [(reason, count) for reason, count in ranked if count]
    if not ranked:
        return "Reasons: none"
    seen = examples([reason for reason, _ in ranked])
    shown = []
    for reason, count in ranked:
        notes = [f"such as {seen[reason]}"] if reason in seen else []
        notes += [f"see {_SETTINGS[reason]}"] if reason in _SETTINGS else []
        shown.append(f"{reason} {count:,}" + (f" ({'; '.join(notes)})" if notes else ""))
    return f"Reasons: {', '.join(shown)}"
