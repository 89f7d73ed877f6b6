"""Section [evaluation]: what vectors, codes and the ranker are judged by."""

from __future__ import annotations

from pydantic import Field

from qarm.config.section import Section


class Evaluation(Section):
    """Evaluation."""

    recall_at: list[int] = Field([50], min_length=1)
    """Cutoffs k of new-pair Recall@k. The report shows the first one. 50 is about the number of
    candidates that a retrieval stage takes per trigger; set it to what yours takes."""
    max_pairs: int = Field(200_000, ge=1)
    """Upper bound on the test pairs of each source, chosen by hash. They are broadcast to all
    tasks: lower it if executors run short of memory. More pairs give narrower intervals."""
