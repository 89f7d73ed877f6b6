"""Section [pairs]: the miners and the filters of their pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qarm.config.section import Section


class IdVectors(Section):
    """ID embeddings: the similarity space of the User2Item trigger (implicit ALS of MLlib)."""

    rank: int = Field(32, ge=1)
    """Dimensions."""
    iterations: int = Field(10, ge=1)
    """ALS iterations."""
    regularization: float = Field(0.05, ge=0)
    """ALS regularisation."""
    alpha: float = Field(10.0, gt=0)
    """Confidence per unit of event weight."""
    version: int | None = Field(None, ge=0)
    """Version of the lake's id_vectors to go on with (`qarm lineage id_vectors` names it); none:
    train them anew. Items that it lacks are neither triggers nor targets of User2Item."""


class User2Item(Section):
    """Exploration pairs (QARM): trigger = most similar item of the latest window."""

    window: int = Field(50, ge=1)
    """Latest positive actions, strictly before the target's time, that can be the trigger."""
    min_similarity: float = Field(0.0, ge=-1, le=1)
    """Smallest cosine of trigger and target in ID-embedding space."""
    max_pairs_per_item: int = Field(50, ge=1)
    """Pairs kept for each target, by support, then score."""
    incremental: bool = False
    """Find triggers of users whose events have changed only, from the first day that did. Of use
    with ID vectors that stay: id_vectors.version, or a table of your own."""


class Swing(Section):
    """Exploitation pairs (arXiv 2010.05525)."""

    alpha1: float = Field(15.0, ge=0)
    """Smoothing of a user's weight 1/(|I_u| + alpha1)^beta."""
    alpha2: float = Field(0.0, ge=0)
    """Smoothing of the overlap of two users."""
    beta: float = 0.3
    """Exponent of a user's weight."""
    min_items_per_user: int = Field(10, ge=0)
    """Users with fewer distinct items are left out."""
    max_items_per_user: int = Field(1000, ge=2)
    """Cap of a user's distinct items."""
    over_cap: Literal["latest", "drop"] = "latest"
    """latest: keep the latest max_items_per_user items; drop: leave the user out (Flink ML)."""
    max_users_per_item: int = Field(1000, ge=2)
    """Users an item keeps: those with the smallest hash(user, seed)."""
    top_k: int = Field(20, ge=1)
    """Pairs kept for each trigger: only the strongest are stable (Flink ML keeps 100)."""
    min_support: int = Field(2, ge=1)
    """Fewest common users of a pair."""
    incremental: bool = False
    """Score the items only whose users' lists have changed."""


class ItemCF(Section):
    """Windowed co-occurrence."""

    counts: Literal["events", "users"] = "events"
    """What a pair's count adds up. events: all its co-occurrences; users: the largest one of each
    user, and of an item's weight the largest event of each user. Without recency (1), weights and
    decay these are numbers of distinct users, and jaccard is that of the sets of users."""
    window_events: int = Field(5, ge=0)
    """Two events of a user co-occur if at most this many events apart; 0: however far."""
    window_days: float = Field(0.0, ge=0)
    """... and at most this many days; 0: however long."""
    recency: float = Field(0.8, gt=0, le=1)
    """Weight recency^(gap - 1) of events `gap` apart."""
    half_life_days: float = Field(0.0, ge=0)
    """A co-occurrence, on the day of its later event, counts half for each half-life before the
    day of the latest event; 0: no decay."""
    normalization: Literal["cosine", "jaccard", "lift", "tfidf", "bm25", "none"] = "cosine"
    """How counts become scores; the formulas are in qarm/kernels/cooccurrence.py."""
    bm25_k1: float = Field(1.2, ge=0)
    """bm25: how soon more of the same co-occurrence stops to count."""
    bm25_b: float = Field(0.75, ge=0, le=1)
    """bm25: how much a frequent trigger is held back; 0: not at all."""
    max_events_per_user: int = Field(1000, ge=2)
    """A user's latest events that are looked at; by_day: of each day."""
    top_k: int = Field(100, ge=1)
    """Pairs kept for each trigger."""
    min_support: int = Field(1, ge=1)
    """Fewest distinct users of a pair; by_day: fewest co-occurrences."""
    by_day: bool = False
    """Count day by day, and only days whose events, or those of the window before them, have
    changed: a nightly run adds a day and touches nothing else. Support then counts co-occurrences,
    for distinct users do not add up. Needs window_days, and counts = "events"."""
    incremental: bool = False
    """Count anew only users whose list has changed. Needs counts = "users"."""
    history_days: int = Field(0, ge=0)
    """Days whose events count, up to that of the latest event; 0: all. by_day: days whose
    co-occurrences count; the window reaches into earlier ones."""

    @model_validator(mode="after")
    def _adds_up(self) -> ItemCF:
        if self.by_day and not self.window_days:
            raise ValueError(
                "by_day needs window_days above 0: it says how many earlier days a day reaches into"
            )
        if self.by_day and self.counts == "users":
            raise ValueError(
                'by_day needs counts = "events": the users of two days are not distinct; '
                "incremental is the way to count users night by night"
            )
        if self.incremental and self.counts == "events":
            raise ValueError(
                'incremental needs counts = "users"; by_day is the way to count events night by '
                "night"
            )
        return self


class Filters(Section):
    """Which mined pairs stay; each filter says how many it removed."""

    min_support: dict[str, int] = {}
    """Source -> fewest users of a pair, such as { u2i = 2 }."""
    score_quantiles: dict[str, tuple[float, float]] = {}
    """Source -> shares of its pairs between which a score must lie, such as { swing = [0.1, 0.99]
    }: scores too low are noise, scores too high often the same product twice."""
    max_item_events: int = Field(0, ge=0)
    """Pairs of an item with more events than this are left out; 0: no cap."""
    min_content_similarity: float = Field(-1.0, ge=-1, le=1)
    """Smallest cosine of the items' text features; -1: not looked at. Pairs of an item without
    text stay."""
    text_backbone: str = "minilm"
    """Of the text features, as encoder.text_backbone; the same one is encoded once."""
    judge: str = ""
    """package.module:function that makes a judge of pairs by their texts, such as
    qarm.pairs.judges:shares_subject; empty: none. See qarm/pairs/judges.py."""
    judge_settings: dict[str, str | float] = {}
    """Handed to that function."""

    @model_validator(mode="after")
    def _known(self) -> Filters:
        sources = {"u2i", "swing", "itemcf"}
        for name in ("min_support", "score_quantiles"):
            if unknown := set(getattr(self, name)) - sources:
                raise ValueError(f"{name} names {sorted(unknown)}; sources: {sorted(sources)}")
        for source, (low, high) in self.score_quantiles.items():
            if not 0 <= low < high <= 1:
                raise ValueError(f"score_quantiles.{source} needs 0 <= low < high <= 1")
        return self


class Pairs(Section):
    """Pair mining."""

    sources: list[Literal["u2i", "swing", "itemcf"]] = ["u2i", "swing", "itemcf"]
    """Miners to run."""
    seed: int = 0
    """Seed of ALS and of the coordinated user sample."""
    id_vectors: IdVectors = IdVectors()
    u2i: User2Item = User2Item()
    swing: Swing = Swing()
    itemcf: ItemCF = ItemCF()
    filters: Filters = Filters()
    estimate_mass_lost: bool = True
    """Whether, where caps bind, a hundredth of the triggers is mined twice more, with and without
    caps: the share of score mass that they cost."""
