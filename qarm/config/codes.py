"""Section [codes]: codebooks, and codes of the catalogue."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qarm.config.section import Section


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
