"""The kinds of last residual level beside k-means. A new kind is a new file and one entry here."""

from __future__ import annotations

from qarm.codes.fsq_fit import FSQ
from qarm.codes.level_kind import LevelKind
from qarm.config.codes import Codes
from qarm.errors import ConfigError

KMEANS = "kmeans"
"""Value of codes.rq_last: the last level is fitted as the others."""

KINDS: dict[str, LevelKind] = {kind.name: kind for kind in (FSQ,)}


def last_kind(config: Codes) -> LevelKind | None:
    """The kind of the last level that codes.rq_last names; None: k-means.

    Raises:
        ConfigError: there is no such kind, or codes.rq_levels do not suit it.
    """
    if config.rq_last == KMEANS:
        return None
    if config.rq_last not in KINDS:
        names = ", ".join([KMEANS, *sorted(KINDS)])
        raise ConfigError(f"codes.rq_last = {config.rq_last!r} is not known; choose one of {names}")
    kind = KINDS[config.rq_last]
    if len(config.rq_levels) < 2:
        raise ConfigError(
            f"codes.rq_last = {kind.name!r} needs a k-means level before it, got one level only: "
            f"rq_levels = {config.rq_levels}"
        )
    kind.check_sizes(config.rq_levels)
    return kind


def kmeans_sizes(config: Codes) -> list[int]:
    """Centroids of each level that k-means fits."""
    return config.rq_levels if last_kind(config) is None else config.rq_levels[:-1]
