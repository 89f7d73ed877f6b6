"""The floor: logistic regression on counts and smoothed rates.

A ranker that loses to it is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qarm.ranking.inputs import DENSE, RATE_EDGE

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

VARIANT = "floor"
FEATURES = ("user_count", "user_rate", "item_count", "item_rate")
_REGULARIZATION = 1e-4
_ITERATIONS = 50
_DAY_SECONDS = 86_400.0


def dense_columns() -> dict[str, Column]:
    """The dense features of the ranker as columns, in the order of ``features.DENSE``."""
    from pyspark.sql import functions as F

    def logit(name: str) -> Column:
        p = F.least(F.greatest(F.col(name), F.lit(RATE_EDGE)), F.lit(1 - RATE_EDGE))
        return F.log(p / (1 - p))

    last = F.element_at("history_ts", -1)
    none = F.col("history_length") == 0
    days = F.greatest(F.col("ts") - last, F.lit(0)) / _DAY_SECONDS
    columns = {
        "user_count": F.log1p("user_count"),
        "user_rate": logit("user_rate"),
        "item_count": F.log1p("item_count"),
        "item_rate": logit("item_rate"),
        "history_length": F.log1p("history_length"),
        "recency": F.when(none, 0.0).otherwise(F.log1p(days)),
        "recency_unknown": none.cast("double"),
    }
    return {name: columns[name] for name in DENSE}


def dense_statistics(train: DataFrame) -> dict[str, list[float]]:
    """Mean and standard deviation of the dense features; a constant one has deviation 1.

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
        "std": [deviation if deviation > 1e-6 else 1.0 for deviation in deviations],
    }


def predict(train: DataFrame, held_out: DataFrame, labels: Sequence[str]) -> DataFrame:
    """``held_out`` with a column ``score_<label>`` for each label.

    One regression a label (MLlib, L-BFGS) on the logits of user_rate and item_rate and the
    logarithms of the counts.

    Args:
        train: ranking_samples of the train part.
        held_out: ranking_samples of the other parts.
    """
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    columns = {f"__{name}": column for name, column in dense_columns().items() if name in FEATURES}
    assembler = VectorAssembler(inputCols=list(columns), outputCol="__features")

    def assembled(samples: DataFrame) -> DataFrame:
        return assembler.transform(samples.withColumns(columns)).drop(*columns)

    rows = assembled(train).select("__features", "weight", *(f"label_{n}" for n in labels)).cache()
    scored = assembled(held_out)
    for name in labels:
        model = LogisticRegression(
            featuresCol="__features",
            labelCol=f"label_{name}",
            weightCol="weight",
            regParam=_REGULARIZATION,
            maxIter=_ITERATIONS,
            probabilityCol="__probability",
            rawPredictionCol="__raw",
            predictionCol="__prediction",
        ).fit(rows.withColumn("weight", F.col("weight").cast("double")))
        score = vector_to_array(F.col("__probability"))[1].cast("float")
        scored = model.transform(scored).withColumn(f"score_{name}", score)
        scored = scored.drop("__probability", "__raw", "__prediction")
    rows.unpersist()
    return scored.drop("__features")
