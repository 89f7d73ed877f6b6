"""Metrics of the ranker against scikit-learn on the same rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from qarm.errors import InputError
from qarm.evaluation import ranking_metrics
from qarm.evaluation.ranking_metrics import Model, as_metrics, evaluate, models
from qarm.evaluation.slices import SAMPLE_SLICES

HEAD = 30


def frame(rows: int = 1500, seed: int = 0) -> pd.DataFrame:
    """Held-out samples of two variants with ties, two parts, all slices."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 60, rows), rng.integers(0, 40, rows)
    events = np.array([0, 3, 12, 25, 80])[item % 5]
    label = (rng.random(rows) < 0.3).astype("float32")
    repeat = rng.random(rows) < 0.3
    frames = []
    for variant, strength in (("floor", 0.0), ("base", 0.3), ("rq", 0.6)):
        logit = strength * 3 * label + rng.normal(-1, 1, rows)
        score = np.round(1 / (1 + np.exp(-logit)), 3)
        columns = {
            "sample_id": np.arange(rows),
            "user_idx": user,
            "item_idx": item,
            "part": np.where(np.arange(rows) % 3 == 0, "valid", "test"),
            "variant": variant,
            "seed": np.int32(0),
            "head": "positive",
            "label": label,
            "score": score.astype("float32"),
            "weight": np.float32(1),
            "is_repeat": repeat,
            "item_train_events": events,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return frame()


def as_spark(spark, rows: pd.DataFrame):
    return spark.createDataFrame(pa.Table.from_pandas(rows, preserve_index=False))


@pytest.fixture(scope="module")
def figures(spark, rows):
    predictions = as_spark(spark, rows)
    return evaluate(predictions, models(predictions), head=HEAD, groups=7)


def _inside(rows: pd.DataFrame, name: str) -> pd.Series:
    events = rows.item_train_events
    return {
        "all": events >= 0,
        "new": ~rows.is_repeat,
        "repeat": rows.is_repeat,
        "cold": events == 0,
        "lt5": events < 5,
        "tail": events < 20,
        "torso": (events >= 20) & (events < HEAD),
        "head": events >= HEAD,
    }[name]


@pytest.mark.parametrize("name", SAMPLE_SLICES)
@pytest.mark.parametrize("variant", ["floor", "base", "rq"])
def test_every_slice_equals_scikit_learn(rows, figures, variant: str, name: str) -> None:
    mine = rows[(rows.variant == variant) & (rows.part == "test") & _inside(rows, name)]
    found = figures[Model(variant, 0, "positive", "test"), name]
    assert found.rows == len(mine)
    assert found.auc.value == pytest.approx(roc_auc_score(mine.label, mine.score), abs=1e-9)
    assert found.log_loss.value == pytest.approx(
        log_loss(mine.label, mine.score.astype(float)), abs=1e-6
    )
    users = [g for _, g in mine.groupby("user_idx") if g.label.nunique() == 2]
    aucs = [roc_auc_score(g.label, g.score) for g in users]
    assert found.users == len(users)
    assert found.uauc.value == pytest.approx(np.mean(aucs), abs=1e-9)
    assert found.gauc.value == pytest.approx(np.average(aucs, weights=list(map(len, users))))


def test_chunks_of_users_change_nothing(spark, rows, figures, monkeypatch) -> None:
    """A user whose rows lie in two batches is still one user."""
    table = pa.Table.from_pandas(rows.sort_values("user_idx"), preserve_index=False)
    n = table.num_rows
    numbers = {"floor": 0, "base": 1, "rq": 2}
    ready = pa.table(
        {
            "model": pa.array([numbers[v] for v in table["variant"].to_pylist()], pa.int32()),
            "user": table["user_idx"],
            "grp": pa.array(np.zeros(n), pa.int32()),
            "bits": pa.array(np.ones(n), pa.int32()),
            "score": table["score"].cast(pa.float64()),
            "label": table["label"].cast(pa.float64()),
        }
    )

    def sums(batch: int):
        out = pa.Table.from_batches(ranking_metrics._user_task(iter(ready.to_batches(batch))))
        grouped = out.group_by("model").aggregate([(s, "sum") for s in ranking_metrics._SUMS])
        return grouped.sort_by("model").to_pandas()

    whole = sums(n)
    monkeypatch.setattr(ranking_metrics, "CHUNK", 100)
    pd.testing.assert_frame_equal(sums(37), whole)


def test_metrics_have_gains_against_base_and_floor(figures) -> None:
    found = {
        (m.variant, m.slice): m
        for m in as_metrics(figures, "positive")
        if m.part == "test" and m.metric == "auc_gain"
    }
    assert ("floor", "all") not in found
    auc = {
        v: figures[Model(v, 0, "positive", "test"), "all"].auc.value
        for v in ("floor", "base", "rq")
    }
    assert found["base", "all"].value == pytest.approx(auc["base"] - auc["floor"])
    gain = found["rq", "all"]
    assert gain.value == pytest.approx(auc["rq"] - auc["base"])
    assert 0 < gain.low < gain.value < gain.high


def test_other_heads_stand_in_the_name(figures) -> None:
    assert {m.metric for m in as_metrics(figures, "top")} == {
        f"{name}[positive]" for name in ("auc", "uauc", "gauc", "log_loss", "auc_gain")
    }


def test_nan_scores_are_refused_by_name(spark, rows) -> None:
    nan = "CASE WHEN sample_id = 3 THEN float('nan') ELSE score END AS score"
    bad = as_spark(spark, rows.head(20)).selectExpr("* EXCEPT (score)", nan)
    with pytest.raises(InputError, match=r"variant='floor'.* 1 of .* scores.*diverged"):
        models(bad)


def test_users_of_one_label_give_sums_of_the_same_type():
    """A chunk in which no user of a slice has both labels."""

    def chunk(labels: list[int]) -> pa.RecordBatch:
        n = len(labels)
        columns = {"model": [0] * n, "user": [1] * n, "score": np.linspace(0.2, 0.8, n)}
        whole = {**columns, "label": labels, "grp": [0] * n, "bits": [1] * n}
        return pa.RecordBatch.from_pydict(whole)

    (both,), (one,) = (list(ranking_metrics._user_task([chunk(x)])) for x in ([0, 1], [1, 1]))
    assert both.schema == one.schema
    assert (both["users"][0].as_py(), one["users"][0].as_py()) == (1.0, 0.0)
