"""The floor: logistic regression on counts and smoothed rates, which every ranker has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qarm.ranking.dense import dense_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

VARIANT = "floor"
FEATURES = ("user_count", "user_rate", "item_count", "item_rate")
_REGULARIZATION = 1e-4
_ITERATIONS = 50


def predict(train: DataFrame, held_out: DataFrame, labels: Sequence[str]) -> DataFrame:
    """``held_out`` with a column ``score_<label>`` for each label, in [0, 1].

    One regression per label (MLlib, L-BFGS) on ``FEATURES``: the logarithms of the counts and the
    logits of the rates.

    Args:
        train: ranking_samples of the train part.
        held_out: ranking_samples of the other parts.
        labels: names of the labels.
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
