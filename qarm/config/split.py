"""Section [split]: the evaluation split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qarm.config.section import Section


class Split(Section):
    """The evaluation split. mine_end <= train_end <= valid_end."""

    kind: Literal["global", "per_user", "leave_last_n", "column", "files"] = "global"
    """global: cuts at row quantiles of time (not of positions: log.time_format = "order");
    per_user: by the event's place (k + .5)/n in the user's time order; leave_last_n: the last
    test_events and the valid_events before them; column: log.split names the part; files:
    split.files names files of each part."""
    mine: float = Field(0.0, ge=0, lt=1)
    """Share of events, earliest first, for mining only; 0: mining sees the train part."""
    train: float = Field(0.8, gt=0, le=1)
    """Share of events for training."""
    valid: float = Field(0.1, ge=0, lt=1)
    """Share of events for validation; the rest is test."""
    valid_events: int = Field(1, ge=0)
    """leave_last_n: events a user for validation."""
    test_events: int = Field(1, ge=1)
    """leave_last_n: last events a user for test."""
    valid_share: float = Field(0.1, ge=0, lt=1)
    """column, files: where the log names no valid part, this share of the train events becomes it:
    the latest in time, or each user's last where the log has positions only. The ranker chooses
    its epoch there. 0: none, and no ranker."""
    column_values: dict[str, str] = {}
    """column: value in the log -> part (mine, train, valid, test)."""
    files: dict[str, list[str]] = {}
    """files: part -> URIs; all files have the same columns."""

    @model_validator(mode="after")
    def _shares(self) -> Split:
        total = self.mine + self.train + self.valid
        if self.kind in ("global", "per_user") and total >= 1:
            raise ValueError(f"mine + train + valid must leave a share for test, got {total:g}")
        known = {"mine", "train", "valid", "test"}
        for parts, where in ((self.column_values.values(), "column_values"), (self.files, "files")):
            if unknown := set(parts) - known:
                raise ValueError(f"{where} names parts {sorted(unknown)}; known: {sorted(known)}")
        if self.kind == "files" and not self.files:
            raise ValueError('kind = "files" needs split.files: part -> URIs')
        return self
