"""Section [gates]: what stops a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qarm.config.section import Section

#: What is legal but odd in the input; see docs/your-data.md.
Oddity = Literal[
    "no_positive",
    "times_of_1970",
    "one_time",
    "gap_in_time",
    "replacement_characters",
    "similar_users",
    "similar_items",
    "equal_vectors",
]


class Gates(Section):
    """What stops a run before it publishes (exit code 4)."""

    max_quarantine_share: float = Field(0.5, ge=0, le=1)
    """Largest share of log rows that may go to quarantine. Rows that log.rows and log.returns
    exclude on purpose (not_selected, return) do not count."""
    min_interactions: int = Field(1, ge=0)
    """Smallest number of rows in table interactions."""
    min_items: int = Field(1, ge=0)
    """Smallest number of items in the catalogue."""
    min_pairs: int = Field(1, ge=0)
    """Smallest number of rows in table item_pairs."""
    stop_on: list[Oddity] = []
    """Oddities of the input that stop the run; others are printed and stand in the report. For
    example "no_positive": no event of a part is positive."""
    min_metric: dict[str, float] = {}
    """Metric -> smallest allowed value, named as metric/variant/part: "auc/base/test" = 0.7. A
    fourth part names a slice: "recall@50/aligned/test/swing cold" = 0.1."""
    max_metric: dict[str, float] = {}
    """Metric -> largest allowed value: "shared_rate/rq/" = 0.3."""
    max_drop: dict[str, float] = {}
    """Metric -> by how much it may be lower than in the published run: "auc/rq/test" = 0.01.
    A stage that has published nothing passes."""
    max_rise: dict[str, float] = {}
    """Metric -> by how much it may be higher than in the published run."""
