"""Pair source u2i: User2Item pairs, at once or by user and day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qarm.ledger import Ledger
from qarm.pairs.mined import Mined
from qarm.pairs.source_record import Inputs, PairSource, SourcePairs
from qarm.pairs.u2i_days import mine_changed
from qarm.pairs.user2item import cap_user2item, mine_user2item, pair_user2item, user_pairs

if TYPE_CHECKING:
    from qarm.lake.tables import TableRef


def mine(inputs: Inputs) -> SourcePairs:
    """User2Item pairs of all events; with scratch, only what has changed is mined again."""
    from pyspark.sql import functions as F

    config, keep = inputs.config.u2i, inputs.keep
    skew: dict[str, Any] = {}
    refs: dict[str, TableRef] = {}
    unchanged = known = 0
    if inputs.scratch is not None:
        found = mine_changed(inputs.scratch, inputs.events, inputs.vectors, config, keep)
        tally, of_users = found.night.tally, found.night.tables[0]
        skew, refs = found.night.facts, found.night.refs
        unchanged, known = found.unchanged_targets, found.kept_targets
    else:
        targets = inputs.events.withColumn("is_target", F.lit(True))
        mined = mine_user2item(targets, inputs.vectors, config.window, config.min_similarity)
        mined = Mined(rows=keep(mined.rows), names=mined.names)
        tally = {**mined.tally(), "pairs": mined.pairs.count()}
        of_users = user_pairs(mined.pairs)
    dropped = {name: n for name, n in tally.items() if name not in ("targets", "pairs")}
    if unchanged:
        dropped["no_trigger_in_an_earlier_run"] = unchanged - known
    of_targets = Ledger(
        name="User2Item targets",
        rows_in=tally.get("targets", 0) + unchanged,
        rows_out=tally.get("pairs", 0) + known,
        dropped=dropped,
    )
    pairs = keep(pair_user2item(of_users))
    capped = keep(cap_user2item(pairs, config.max_pairs_per_item))
    over = F.greatest(F.col("count") - config.max_pairs_per_item, F.lit(0))
    of_target = pairs.groupBy("target").count()
    row = of_target.agg(F.sum("count"), F.max("count"), F.sum(over)).first()
    assert row is not None
    before, largest, over_cap = (int(number or 0) for number in row)
    skew["most_pairs_of_a_target"] = largest
    ledger = Ledger(
        name="User2Item pairs",
        rows_in=before,
        rows_out=capped.count(),
        dropped={"over_cap": over_cap},
    )
    return SourcePairs(pairs=capped, ledgers=[of_targets, ledger], skew=skew, scratch=refs)


SOURCE = PairSource(
    name="u2i",
    title="User2Item",
    mine=mine,
    settings=lambda pairs: pairs.u2i.model_dump(mode="json"),
    needs_vectors=True,
    can_be_incremental=True,
)
