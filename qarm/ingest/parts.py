"""Which events a later stage may look at: parts of the split, joined to the interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qarm.errors import InputError
from schemas.columns import EVENT_KEY, ITEM_IDX, PART, TS, USER_IDX, WEIGHT

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Parts in the order of time: mine_end <= train_end <= valid_end.
PARTS = ("mine", "train", "valid", "test")


def mining_parts(splits_facts: Mapping[str, Any]) -> list[str]:
    """Parts that pairs and ID vectors are mined from.

    Args:
        splits_facts: facts of stage ingest; ``has_mine`` says whether the split has a period of
            its own for mining.
    """
    return ["mine"] if splits_facts.get("has_mine") else ["train"]


def training_parts(splits_facts: Mapping[str, Any]) -> list[str]:
    """Parts that lie before ``train_end``: what vocabularies, rates and codebooks may see."""
    del splits_facts  # the same for every split; an absent mine part has no rows
    return ["mine", "train"]


def with_part(interactions: DataFrame, event_splits: DataFrame) -> DataFrame:
    """``interactions`` with the column ``part``; events without a part are left out."""
    parts = event_splits.select(*EVENT_KEY, PART)
    return interactions.join(parts, list(EVENT_KEY))


def check_every_event_has_a_part(
    interactions: DataFrame, event_splits: DataFrame, where: str
) -> None:
    """Every event must have a part in a table of the user's own; ours is made from the events.

    Args:
        interactions: the events.
        event_splits: the user's own table.
        where: its URI, for the message.

    Raises:
        InputError: some have none. They would be missing from all that is mined and judged.
    """
    from pyspark.sql import functions as F

    keys = event_splits.select(*EVENT_KEY)
    without = interactions.join(keys, list(EVENT_KEY), "left_anti")
    if rows := without.count():
        first = without.orderBy(*EVENT_KEY).select(*map(F.col, EVENT_KEY)).first()
        raise InputError(
            f"{rows:,} events of interactions have no row in your event_splits ({where}), such as "
            f"{first.asDict() if first else None}; expected one part for each "
            f"({', '.join(EVENT_KEY)}). Add them, or leave the events out of the log"
        )


def mining_events(
    interactions: DataFrame, event_splits: DataFrame, parts: Sequence[str]
) -> DataFrame:
    """Positive events of ``parts`` (``mining_parts``): (user_idx, item_idx, ts, seq, weight)."""
    from pyspark.sql import functions as F

    wanted = event_splits.where(F.col(PART).isin(*parts))
    events = with_part(interactions.where("positive"), wanted)
    return events.select(USER_IDX, ITEM_IDX, TS, "seq", WEIGHT)
