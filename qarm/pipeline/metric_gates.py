"""Gates on metrics: their names are checked before the first stage, their values before a stage
publishes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from qarm.errors import ConfigError, GateError
from qarm.pipeline.stages import STAGES

if TYPE_CHECKING:
    from qarm.config.gates import Gates

#: Settings of section [gates] that map the name of a metric to a limit.
LIMITS = ("min_metric", "max_metric", "max_drop", "max_rise")


def names_of(metric: Mapping[str, Any]) -> list[str]:
    """Names by which a gate can refer to a metric: with its slice, and without if that is all."""
    name = f"{metric['metric']}/{metric['variant']}/{metric['part']}"
    return [f"{name}/{metric['slice']}", *([name] if metric["slice"] == "all" else [])]


def check_names(gates: Gates) -> None:
    """Check that gates name metrics that stages have. This needs no Spark.

    Whether a run has the variant, part and slice is known when all stages have run
    (``check_existence``).

    Raises:
        ConfigError: there is no metric of that name; suggests similar ones.
    """
    patterns = [pattern for stage in STAGES for pattern in stage.metrics]
    for limit, gate in _gates(gates):
        metric = gate.split("/")[0]
        if not any(fnmatchcase(metric, pattern) for pattern in patterns):
            known = [pattern.rstrip("@*") for pattern in patterns if "[" not in pattern]
            _refuse(limit, gate, metric, known)
        if gate.count("/") < 2:
            raise ConfigError(
                f"gates.{limit}: {gate!r} should be metric/variant/part or metric/variant/part/"
                'slice, such as "auc/base/test"; variant and part may be empty'
            )


def check_existence(gates: Gates, metrics: Iterable[Mapping[str, Any]]) -> None:
    """Check that each gate names a metric of the run: another one would never stop a run.

    Raises:
        ConfigError: none has that name; suggests similar ones.
    """
    names = [name for metric in metrics for name in names_of(metric)]
    known = set(names)
    for limit, gate in _gates(gates):
        if gate not in known:
            _refuse(limit, gate, gate, names)


def check_values(
    gates: Gates,
    metrics: Sequence[Mapping[str, Any]],
    published: Iterable[Mapping[str, Any]],
    consequence: str,
) -> None:
    """Compare metrics with their limits.

    Args:
        gates: the limits.
        metrics: of a stage that has run and not yet published.
        published: metrics of the run of that stage that is published; changes are against these.
        consequence: what happens now, for the message.

    Raises:
        GateError: a metric is beyond a limit, or NaN.
    """
    before = {name: float(metric["value"]) for metric in published for name in names_of(metric)}
    for metric in metrics:
        for name in names_of(metric):
            if problem := _beyond(gates, name, float(metric["value"]), before.get(name)):
                raise GateError(
                    f"gates.{problem}. {consequence}. Check what changed in the input (qarm "
                    "lineage), or change the gate"
                )


def _gates(gates: Gates) -> list[tuple[str, str]]:
    return [(limit, gate) for limit in LIMITS for gate in getattr(gates, limit)]


def _refuse(limit: str, gate: str, near: str, known: Sequence[str]) -> None:
    close = difflib.get_close_matches(near, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {sorted(set(known))}"
    raise ConfigError(
        f"gates.{limit}: no metric is called {gate!r} (metric/variant/part[/slice]); {hint}"
    )


def _beyond(gates: Gates, name: str, value: float, before: float | None) -> str | None:
    """What is wrong, beginning with the setting; None: nothing."""
    naming = [limit for limit in LIMITS if name in getattr(gates, limit)]
    if naming and math.isnan(value):
        return f"{naming[0]}: {name} is NaN"
    least, most = gates.min_metric.get(name), gates.max_metric.get(name)
    if least is not None and value < least:
        return f"min_metric: {name} is {value:.4f}, below {least}"
    if most is not None and value > most:
        return f"max_metric: {name} is {value:.4f}, above {most}"
    if before is None:
        return None
    drop, rise = gates.max_drop.get(name), gates.max_rise.get(name)
    if drop is not None and before - value > drop:
        return f"max_drop: {name} fell from {before:.4f} to {value:.4f}, by more than {drop}"
    if rise is not None and value - before > rise:
        return f"max_rise: {name} rose from {before:.4f} to {value:.4f}, by more than {rise}"
    return None
