"""Section [codes]: codebooks, and codes of the catalogue."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qarm.config.section import Section


class Codes(Section):
    """Quantitative codes."""

    rq_levels: list[int] = [256, 256, 256]
    """Number of centroids of each residual level. More or larger levels separate more items; a
    level larger than the number of items is an error."""
    rq_iterations: int = Field(25, ge=1)
    """Maximum number of Lloyd iterations per level; the fit stops earlier if no item moves."""
    rq_last: str = "kmeans"
    """Kind of the last level. kmeans: like the other levels; fsq: bits of a trained projection
    (Res-KmeansFSQ), for which the last entry of rq_levels is a power of two."""
    rq_shrink: float | Literal["auto"] = "auto"
    """Pseudo-count that shrinks each centroid towards zero, from the second level on; lowers the
    error on unseen items where clusters are small. auto: estimated from the data (empirical Bayes),
    about 3 with 15 items per centroid; 0: plain means."""
    vq_anchors: int = Field(1024, ge=1)
    """Number of anchors in the VQ pool; reduced to the number of items of the training part."""
    vq_pool: Literal["popular", "random", "k_centre"] = "popular"
    """Which items become anchors. popular: most events in training; random: smallest hash of item
    and seed; k_centre: each the farthest from those before, so that no item is far from all of
    them. `qarm anchor-pools` compares the rules."""
    vq_k: int = Field(25, ge=1)
    """Length of a VQ code: number of nearest anchors (QARM: 25)."""
    vq_exact_anchors: int = Field(1_000_000, ge=0)
    """Pools up to this number of anchors are searched exactly, larger ones by an approximate index
    (needs faiss-cpu), whose recall is metric vq_index_recall. Items that have a code keep it."""
    vq_index_probes: int = Field(64, ge=1)
    """Cells of the approximate index, of 4 sqrt(vq_anchors), that each item searches. Higher values
    improve recall and cost time."""
    fit_rows: int = Field(1_000_000, ge=1)
    """Maximum number of items, drawn by hash, that codebooks are fitted on, in the memory of the
    driver."""
    refresh: Literal["fresh", "matched"] = "fresh"
    """What a refit does with published codes. fresh: fits a new codebook without regard to them.
    matched: starts from the published codebook and keeps the numbers of clusters and anchors that
    keep their items, so that fewer codes change."""
    resolve_capacity: int = Field(0, ge=0)
    """Maximum number of items per code in semantic_ids.rq_resolved: items beyond it get the next
    nearest code with the same prefix. Published items never move. 0: rq_resolved is null."""
    drift_holdout: float = Field(0.05, ge=0, le=0.5)
    """Share of the items that codebooks may be fitted on which is held out (at most 20,000) to test
    later whether a refit is due. 0: no test."""
    drift_max_error_ratio: float = Field(1.1, ge=1)
    """A refit is due if the relative error of new items exceeds that of held-out items by this
    factor, with 99 % confidence."""
    seed: int = 0
    """Seed of the first centroids, the samples and the hash order of anchors."""

    @model_validator(mode="after")
    def _levels(self) -> Codes:
        if not self.rq_levels or min(self.rq_levels) < 2:
            raise ValueError(f"rq_levels needs one size >= 2 per level, got {self.rq_levels}")
        if self.rq_shrink != "auto" and self.rq_shrink < 0:
            raise ValueError(f'rq_shrink is a number >= 0 or "auto", got {self.rq_shrink}')
        if self.vq_k > self.vq_anchors:
            raise ValueError(f"vq_k ({self.vq_k}) exceeds vq_anchors ({self.vq_anchors})")
        return self
