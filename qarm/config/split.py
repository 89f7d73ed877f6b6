"""Section [split]: the evaluation split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qarm.config.section import Section


class Split(Section):
    """The evaluation split: which events are mined, trained on, validated on and tested on."""

    kind: Literal["global", "per_user", "leave_last_n", "column", "files"] = "global"
    """global: cut at quantiles of time over all events; the only kind without future information
    across users, but not for logs with positions only (log.time_format = "order"). per_user: by the
    event's relative place in the user's own order. leave_last_n: the last test_events of each user
    are the test part, the valid_events before them the valid part. column: log.split names the
    part. files: split.files names the files of each part."""
    mine: float = Field(0.0, ge=0, lt=1)
    """Share of events, from the earliest, that are only mined for pairs; 0: pairs are mined from
    the train part."""
    train: float = Field(0.8, gt=0, le=1)
    """global, per_user: share of events in the train part."""
    valid: float = Field(0.1, ge=0, lt=1)
    """global, per_user: share of events in the valid part; the rest is the test part."""
    valid_events: int = Field(1, ge=0)
    """leave_last_n: events per user in the valid part."""
    test_events: int = Field(1, ge=1)
    """leave_last_n: events per user in the test part."""
    valid_share: float = Field(0.1, ge=0, lt=1)
    """column, files: share of the train events that becomes the valid part where the data names
    none. It takes the latest events, or each user's last ones where the log has positions only.
    The ranker needs the valid part to choose its epoch; 0: no valid part, so no ranker."""
    column_values: dict[str, str] = {}
    """column: value of log.split -> part (mine, train, valid or test). The names of the parts need
    no entry."""
    files: dict[str, list[str]] = {}
    """files: part -> URIs of its files, which all have the same columns."""

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
