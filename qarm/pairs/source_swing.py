"""Pair source swing: Swing pairs, at once or by item."""

from __future__ import annotations

from qarm.ledger import Ledger
from qarm.pairs.source_record import Inputs, PairSource, SourcePairs, from_kernel
from qarm.pairs.swing import mine_swing, swing_mass_lost
from qarm.pairs.swing_items import score_changed


def mine(inputs: Inputs) -> SourcePairs:
    """Swing pairs of all events; with scratch, only what has changed is mined again."""
    config, seed, keep = inputs.config.swing, inputs.config.seed, inputs.keep
    if inputs.scratch is None:
        return from_kernel("Swing", mine_swing(inputs.events, config, seed, keep), keep)
    night, skew = score_changed(inputs.scratch, inputs.events, config, seed, keep)
    (pairs,), (kept,) = night.tables, night.kept
    ledger = Ledger(
        name="Swing pairs",
        rows_in=night.tally.get("scored", 0) + kept.count(),
        rows_out=pairs.count(),
        dropped={name: n for name, n in night.tally.items() if name != "scored"},
    )
    skew = {**skew, **night.facts}
    return SourcePairs(pairs=pairs, ledgers=[ledger], skew=skew, scratch=night.refs)


SOURCE = PairSource(
    name="swing",
    title="Swing",
    mine=mine,
    settings=lambda pairs: {**pairs.swing.model_dump(mode="json"), "seed": pairs.seed},
    can_be_incremental=True,
    mass_lost=lambda of: swing_mass_lost(of.events, of.config.swing, of.config.seed, of.keep),
)
