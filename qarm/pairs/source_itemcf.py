"""Pair source itemcf: ItemCF pairs, at once or by day."""

from __future__ import annotations

from qarm.ledger import Ledger
from qarm.pairs.itemcf import itemcf_mass_lost, mine_itemcf
from qarm.pairs.itemcf_days import count_changed, score_days
from qarm.pairs.source_record import Inputs, PairSource, SourcePairs, from_kernel


def mine(inputs: Inputs) -> SourcePairs:
    """ItemCF pairs of all events; with scratch, only what has changed is mined again."""
    from pyspark.sql import functions as F

    config, keep = inputs.config.itemcf, inputs.keep
    if inputs.scratch is None:
        return from_kernel("ItemCF", mine_itemcf(inputs.events, config, keep), keep)
    night = count_changed(inputs.scratch, inputs.events, config, keep)
    pairs, tally = score_days(night.tables[0], night.tables[1], config, keep)
    ledger = Ledger(
        name="ItemCF pairs", rows_in=tally.pop("scored"), rows_out=pairs.count(), dropped=tally
    )
    of_days = inputs.events.groupBy("user_idx", F.to_date("ts")).count()
    largest = of_days.agg(F.max("count")).first()
    assert largest is not None
    skew = {"most_events_of_a_user_and_day": int(largest[0] or 0), **night.facts}
    return SourcePairs(pairs=pairs, ledgers=[ledger], skew=skew, scratch=night.refs)


SOURCE = PairSource(
    name="itemcf",
    title="ItemCF",
    mine=mine,
    settings=lambda pairs: pairs.itemcf.model_dump(mode="json"),
    can_be_incremental=True,
    mass_lost=lambda of: itemcf_mass_lost(of.events, of.config.itemcf, of.keep),
)
