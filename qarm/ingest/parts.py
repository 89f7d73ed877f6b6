"""Parts of the split, joined to the interactions: which events a later stage may use."""

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
        splits_facts: facts of stage ingest; ``has_mine``: the split has a part for mining only.
    """
    return ["mine"] if splits_facts.get("has_mine") else ["train"]


def training_parts(splits_facts: Mapping[str, Any]) -> list[str]:
    """Parts before ``train_end``, which vocabularies, rates and codebooks may use."""
    del splits_facts  # equal for all splits; an absent mine part has no rows
    return ["mine", "train"]


def with_part(interactions: DataFrame, event_splits: DataFrame) -> DataFrame:
    """``interactions`` with the column ``part``, without events that have none."""
    parts = event_splits.select(*EVENT_KEY, PART)
    return interactions.join(parts, list(EVENT_KEY))


def check_every_event_has_a_part(
    interactions: DataFrame, event_splits: DataFrame, where: str
) -> None:
    """Raise InputError if an event has no part in the user's own event_splits.

    Such events would be missing from everything that is mined and evaluated.

    Args:
        interactions: the events.
        event_splits: the user's own table; ours is made from the events.
        where: its URI, for the message.
    """
    from pyspark.sql import functions as F

    keys = event_splits.select(*EVENT_KEY)
    without = interactions.join(keys, list(EVENT_KEY), "left_anti")
    if rows := without.count():
        first = without.orderBy(*EVENT_KEY).select(*map(F.col, EVENT_KEY)).first()
        raise InputError(
            f"{rows:,} events of interactions have no row in your event_splits ({where}), such as "
            f"{first.asDict() if first else None}; expected one part for each "
            f"({', '.join(EVENT_KEY)}). Add them, or remove the events from the log"
        )


def mining_events(
    interactions: DataFrame, event_splits: DataFrame, parts: Sequence[str]
) -> DataFrame:
    """Positive events of ``parts`` (``mining_parts``): (user_idx, item_idx, ts, seq, weight)."""
    from pyspark.sql import functions as F

    wanted = event_splits.where(F.col(PART).isin(*parts))
    events = with_part(interactions.where("positive"), wanted)
    return events.select(USER_IDX, ITEM_IDX, TS, "seq", WEIGHT)
