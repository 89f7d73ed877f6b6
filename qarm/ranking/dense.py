"""Dense features of a sample: their order, as tensors for the ranker, as columns for the floor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

DENSE = (
    "user_count",
    "user_rate",
    "item_count",
    "item_rate",
    "history_length",
    "recency",
    "recency_unknown",
)
"""Dense features, in order: logarithms of counts, logits of rates, logarithm of the days since the
last positive, and whether there was none."""

DAY_SECONDS = 86_400.0
_RATE_EDGE = 1e-4
"""Rates are clamped to this distance from 0 and 1 before their logit."""
_LEAST_DEVIATION = 1e-6


def dense_features(batch: Mapping[str, Tensor], recency: Tensor) -> Tensor:
    """The features as a tensor (B, len(DENSE)).

    Args:
        batch: columns of ranking_samples, (B,) each.
        recency: (B,) log(1 + days) since the last positive; 0 where there was none.
    """
    columns = [
        torch.log1p(batch["user_count"]),
        torch.logit(batch["user_rate"], eps=_RATE_EDGE),
        torch.log1p(batch["item_count"]),
        torch.logit(batch["item_rate"], eps=_RATE_EDGE),
        torch.log1p(batch["history_length"].float()),
        recency,
        (batch["history_length"] == 0).float(),
    ]
    return torch.stack(columns, dim=1)


def dense_columns() -> dict[str, Column]:
    """The features as columns of ranking_samples, by name, in the order of ``DENSE``."""
    from pyspark.sql import functions as F

    def logit(name: str) -> Column:
        p = F.least(F.greatest(F.col(name), F.lit(_RATE_EDGE)), F.lit(1 - _RATE_EDGE))
        return F.log(p / (1 - p))

    last = F.element_at("history_ts", -1)
    is_empty = F.col("history_length") == 0
    days = F.greatest(F.col("ts") - last, F.lit(0)) / DAY_SECONDS
    columns = {
        "user_count": F.log1p("user_count"),
        "user_rate": logit("user_rate"),
        "item_count": F.log1p("item_count"),
        "item_rate": logit("item_rate"),
        "history_length": F.log1p("history_length"),
        "recency": F.when(is_empty, 0.0).otherwise(F.log1p(days)),
        "recency_unknown": is_empty.cast("double"),
    }
    return {name: columns[name] for name in DENSE}


def dense_statistics(train: DataFrame) -> dict[str, list[float]]:
    """Mean ("mean") and standard deviation ("std") of each feature, in the order of ``DENSE``.

    The deviation of a constant feature is given as 1, so that it can be divided by.

    Args:
        train: ranking_samples of the train part.
    """
    from pyspark.sql import functions as F

    columns = dense_columns()
    row = train.agg(
        *(F.mean(column).alias(f"mean_{name}") for name, column in columns.items()),
        *(F.stddev_pop(column).alias(f"std_{name}") for name, column in columns.items()),
    ).first()
    assert row is not None
    deviations = [float(row[f"std_{name}"]) for name in columns]
    return {
        "mean": [float(row[f"mean_{name}"]) for name in columns],
        "std": [d if d > _LEAST_DEVIATION else 1.0 for d in deviations],
    }
