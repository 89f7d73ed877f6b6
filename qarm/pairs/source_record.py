"""What stage mine-pairs knows of a pair source: one record, what it mines from, what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qarm.config import fingerprint
from qarm.ledger import Ledger
from qarm.pairs.filters import is_active
from qarm.pairs.mined import Keep, Mined
from qarm.pairs.nightly import Scratch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from qarm.config.pairs import Pairs
    from qarm.lake.tables import TableRef


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a source mines from."""

    events: DataFrame
    """Positive events of the mining period: user_idx, item_idx, ts, seq, weight."""
    vectors: DataFrame
    """ID vectors: item_idx, vector."""
    config: Pairs
    keep: Keep
    """Keeps frames that are read more than once."""
    scratch: Scratch | None = None
    """Where incremental sources keep their tables; None: mine from scratch."""


@dataclass(frozen=True, kw_only=True)
class SourcePairs:
    """What a source mined."""

    pairs: DataFrame
    """Columns ``mined.PAIR_COLUMNS``."""
    ledgers: list[Ledger]
    """The last one is about the pairs."""
    skew: dict[str, Any] = field(default_factory=dict)
    """Facts about caps, among them ``users_capped`` and ``items_capped`` if the source's record
    has ``mass_lost``."""
    scratch: dict[str, TableRef] = field(default_factory=dict)
    """Versions of the scratch tables of an incremental source."""


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """A pair source."""

    name: str
    """Value of item_pairs.source."""
    title: str
    mine: Callable[[Inputs], SourcePairs]
    settings: Callable[[Pairs], dict[str, Any]]
    """All settings that its pairs depend on, for item_pairs.miner_version."""
    needs_vectors: bool = False
    """Whether its pairs depend on the ID vectors."""
    can_be_incremental: bool = False
    mass_lost: Callable[[Inputs], float | None] | None = None
    """Share of the score mass that caps cost; None: the source has no caps of that kind."""


def from_kernel(title: str, mined: Mined, keep: Keep) -> SourcePairs:
    """Pairs of a kernel, with the ledger named after ``title``. An action."""
    rows = Mined(rows=keep(mined.rows), names=mined.names)
    tally = rows.tally()
    ledger = Ledger(
        name=f"{title} pairs",
        rows_in=tally.pop("scored"),
        rows_out=rows.pairs.count(),
        dropped=tally,
    )
    return SourcePairs(pairs=rows.pairs, ledgers=[ledger], skew=mined.skew)


def add_mass_lost(source: PairSource, inputs: Inputs, mined: SourcePairs) -> float | None:
    """Put the share of score mass that caps cost into the facts; 0 if no cap cut anything.

    Not estimated for an incremental source: the estimate reads all lists, the source does not.
    """
    if source.mass_lost is None or inputs.scratch is not None:
        return None
    capped = mined.skew["users_capped"] or mined.skew["items_capped"]
    lost = source.mass_lost(inputs) if capped else 0.0
    mined.skew["share_of_score_mass_lost"] = lost
    return lost


def version_of(source: PairSource, config: Pairs, code_version: str, vectors: str | None) -> str:
    """Hash of what the source's pairs depend on besides the events.

    Args:
        source: the source.
        config: section [pairs].
        code_version: of the stage.
        vectors: URI of ID vectors of the user's own; None: trained from the events.
    """
    parts: dict[str, Any] = {
        "source": source.name,
        "code": code_version,
        "settings": source.settings(config),
        "incremental": source.name in config.incremental,
    }
    if is_active(config.filters):
        parts["filters"] = config.filters.model_dump(mode="json")
    if source.needs_vectors:
        own = {"als": config.id_vectors.model_dump(mode="json"), "seed": config.seed}
        parts["vectors"] = vectors or own
    return fingerprint(parts)
