"""The floor: a logistic regression per label."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from qarm.ranking import floor
from qarm.ranking.dense import DENSE, dense_columns

ROWS = 400
DDL = (
    "sample_id bigint, user_count float, user_rate float, item_count float, item_rate float, "
    "history_length int, ts bigint, history_ts array<bigint>, weight float, label_a float, "
    "label_b float"
)


def test_scores_are_those_of_another_implementation(spark):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS):
        user, item = rng.random(2) * 0.8 + 0.1
        labels = [float(rng.random() < p) for p in (user * item, 1 - item)]
        counts = rng.integers(0, 50, 2).tolist()
        rows.append((i, counts[0], user, counts[1], item, 0, 0, [0], 1.0, *labels))
    rows = [tuple(map(float, row[:5])) + row[5:] for row in rows]
    rows = [(int(row[0]), *row[1:]) for row in rows]
    samples = spark.createDataFrame(rows, DDL)
    train, held_out = samples.where("sample_id < 300"), samples.where("sample_id >= 300")
    scored = floor.predict(train, held_out, ["a", "b"]).orderBy("sample_id").toPandas()
    assert scored["sample_id"].tolist() == list(range(300, ROWS))

    columns = dense_columns()
    used = [name for name in DENSE if name in floor.FEATURES]
    x = np.array(samples.orderBy("sample_id").select(*(columns[n] for n in used)).collect(), float)
    for place, label in ((9, "a"), (10, "b")):
        y = np.array([row[place] for row in rows])
        # Spark scales features to unit deviation before it regularises.
        deviation = x[:300].std(0, ddof=1)
        model = LogisticRegression(C=1 / (1e-4 * 300), max_iter=500, tol=1e-8)
        model.fit(x[:300] / deviation, y[:300])
        expected = model.predict_proba(x[300:] / deviation)[:, 1]
        np.testing.assert_allclose(scored[f"score_{label}"], expected, atol=2e-3)
        assert scored[f"score_{label}"].std() > 0.02
