"""Section [gates]: what stops a run."""

from __future__ import annotations

from pydantic import Field

from qarm.config.section import Section


class Gates(Section):
    """What stops a run before it publishes (exit code 4)."""

    max_quarantine_share: float = Field(0.5, ge=0, le=1)
    """Largest share of log rows in quarantine, of the rows that log.rows and log.returns leave in:
    what these leave out (not_selected, return) counts neither as lost nor as a row."""
    min_interactions: int = Field(1, ge=0)
    """Fewest rows of interactions."""
    min_items: int = Field(1, ge=0)
    """Fewest items."""
    min_pairs: int = Field(1, ge=0)
    """Fewest item pairs."""
    min_metric: dict[str, float] = {}
    """Metric -> smallest value allowed, such as "auc/base/test" = 0.7 (metric/variant/part)."""
