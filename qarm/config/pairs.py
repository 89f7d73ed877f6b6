"""Section [pairs]: the miners of item pairs, and the filters of what they mined."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qarm.config.section import Section


class IdVectors(Section):
    """ID vectors: the space in which User2Item compares items (implicit ALS of Spark MLlib)."""

    rank: int = Field(32, ge=1)
    """Dimensions of the vectors. Raise it for large catalogues; cost grows with its square."""
    iterations: int = Field(10, ge=1)
    """ALS iterations."""
    regularization: float = Field(0.05, ge=0)
    """ALS regularisation. Raise it if most users have few events."""
    alpha: float = Field(10.0, gt=0)
    """Confidence per unit of event weight (Hu, Koren, Volinsky 2008)."""


class User2Item(Section):
    """Exploration pairs (QARM): the trigger is the most similar item among the latest actions."""

    window: int = Field(50, ge=1)
    """Number of latest positive actions, strictly before the target's time, among which the
    trigger is chosen. 50 is the paper's value."""
    min_similarity: float = Field(0.0, ge=-1, le=1)
    """Smallest cosine of trigger and target between their ID vectors. Raise it to drop unrelated
    pairs."""
    max_pairs_per_item: int = Field(50, ge=1)
    """Pairs kept per target, by support, then by score."""


class Swing(Section):
    """Exploitation pairs (arXiv 2010.05525); defaults of Flink ML unless stated otherwise."""

    alpha1: float = Field(15.0, ge=0)
    """Smoothing of a user's weight 1 / (|I_u| + alpha1)^beta."""
    alpha2: float = Field(0.0, ge=0)
    """Smoothing of the overlap of two users."""
    beta: float = 0.3
    """Exponent of a user's weight. A negative value favours active users."""
    min_items_per_user: int = Field(10, ge=0)
    """Users with fewer distinct items are left out. Lower it for sparse logs."""
    max_items_per_user: int = Field(1000, ge=2)
    """Cap on the distinct items of a user; `over_cap` says what happens above it."""
    over_cap: Literal["latest", "drop"] = "latest"
    """latest: keep the latest max_items_per_user items; drop: leave the user out (Flink ML)."""
    max_users_per_item: int = Field(1000, ge=2)
    """Cap on the users of an item: those with the smallest hash(user, seed) are kept. Cost grows
    with its square."""
    top_k: int = Field(20, ge=1)
    """Pairs kept per trigger. Flink ML keeps 100; only the strongest pairs are stable."""
    min_support: int = Field(2, ge=1)
    """Fewest common users of a pair. A score needs at least 2."""


class ItemCF(Section):
    """Windowed co-occurrence with cosine normalisation."""

    window_events: int = Field(5, ge=0)
    """Two events of a user co-occur if they are at most this many events apart; 0: no limit."""
    window_days: float = Field(0.0, ge=0)
    """Two events of a user co-occur if they are at most this many days apart; 0: no limit.
    Incremental mining of ItemCF needs a limit."""
    recency: float = Field(0.8, gt=0, le=1)
    """A co-occurrence of events `gap` apart counts recency^(gap - 1)."""
    max_events_per_user: int = Field(1000, ge=2)
    """Number of a user's latest events that count (incremental: of each user and day)."""
    top_k: int = Field(100, ge=1)
    """Pairs kept per trigger."""
    min_support: int = Field(1, ge=1)
    """Fewest distinct users of a pair (incremental: fewest co-occurrences)."""


class Filters(Section):
    """Which mined pairs are kept; each filter reports how many pairs it removed."""

    min_content_similarity: float = Field(-1.0, ge=-1, le=1)
    """Smallest cosine of two items' text features (encoder.text_backbone); -1: no filter. Pairs of
    an item without text are kept. Use it if too many pairs are unrelated by content."""
    judge: str = ""
    """package.module:function that makes a judge of pairs from their texts, such as
    qarm.pairs.judges:shares_subject; empty: no filter."""


class Pairs(Section):
    """Pair mining."""

    sources: list[str] = ["u2i", "swing", "itemcf"]
    """Pair sources to mine: u2i, swing, itemcf."""
    seed: int = 0
    """Seed of ALS and of Swing's user sample."""
    incremental: list[str] = []
    """Sources that mine only what changed since the last run, such as ["swing", "itemcf"]; for
    nightly runs. swing: items whose users changed. u2i: users and days whose events changed; needs
    ID vectors that stay the same (external.tables.id_vectors). itemcf: days whose events changed;
    caps then hold per user and day, and support counts co-occurrences, because distinct users of
    several days do not add up."""
    id_vectors: IdVectors = IdVectors()
    u2i: User2Item = User2Item()
    swing: Swing = Swing()
    itemcf: ItemCF = ItemCF()
    filters: Filters = Filters()

    @model_validator(mode="after")
    def _incremental_itemcf_has_a_window(self) -> Pairs:
        if "itemcf" in self.incremental and not self.itemcf.window_days:
            raise ValueError(
                "pairs.incremental names itemcf, which needs itemcf.window_days above 0: it limits "
                "how many earlier days a day depends on"
            )
        return self
