"""Section [evaluation]: cut-offs and sizes of what judges."""

from __future__ import annotations

from pydantic import Field

from qarm.config.section import Section


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
