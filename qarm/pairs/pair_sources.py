"""The pair sources by name. A new one is registered here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from qarm.errors import ConfigError
from qarm.pairs import source_itemcf, source_swing, source_u2i

if TYPE_CHECKING:
    from qarm.config.pairs import Pairs
    from qarm.pairs.source_record import PairSource

_MODULES = (source_u2i, source_swing, source_itemcf)

SOURCES: dict[str, PairSource] = {module.SOURCE.name: module.SOURCE for module in _MODULES}


def check_sources(config: Pairs, wanted: Iterable[str] = ()) -> None:
    """Check the names of sources in a configuration.

    Args:
        config: section [pairs].
        wanted: sources that alignment.sources names; ``user`` stands for pairs of your own.

    Raises:
        ConfigError: a name is unknown, none is given, or a source cannot be incremental.
    """
    if not config.sources:
        raise ConfigError(f"pairs.sources is empty; name at least one of {', '.join(SOURCES)}")
    able = [name for name, source in SOURCES.items() if source.can_be_incremental]
    for setting, names, known in (
        ("pairs.sources", config.sources, list(SOURCES)),
        ("pairs.incremental", config.incremental, able),
        ("alignment.sources", wanted, [*SOURCES, "user"]),
    ):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"sources: {', '.join(known)}"
                raise ConfigError(f"{setting} names {name!r}, which is no such source; {hint}")
