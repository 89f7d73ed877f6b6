"""AUC, UAUC, GAUC and log loss of predictions, by slice, with intervals and paired gains.

Two passes over the predictions in Spark:

* histograms: number of samples per (model, user group, slice bits, score bucket). A task handles
  one range of buckets and returns a few sums;
* users: samples partitioned and sorted by user stream through numpy, which sums the AUC of users.

The driver holds models x slices x groups x ranges numbers, independent of the size of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qarm.errors import InputError
from qarm.evaluation.estimates import (
    GROUPS,
    Estimate,
    RangeWins,
    auc_estimate,
    ratio_of_sums,
    user_auc,
    wins_in_range,
)
from qarm.evaluation.slices import SAMPLE_SLICES, sample_bits
from qarm.ledger import Metric

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Score buckets: equal steps of the logit between CLAMP and 1 - CLAMP. A step changes a probability
#: by less than 8e-6. The AUC is exact except that closer couples count as ties.
BUCKETS = 1 << 20
#: Buckets per task; bounds the memory of a task to groups x slices x this many cells.
RANGE = 1 << 14
#: Probabilities are clipped to [CLAMP, 1 - CLAMP] in logit and log loss.
CLAMP = 1e-7
#: Rows per chunk in the pass over users.
CHUNK = 1 << 18

_WINS = ("positives", "negatives", "of_positives", "over_negatives", "own")
_WINS_DDL = "model int, slice int, range int, grp int, " + ", ".join(f"{w} double" for w in _WINS)
_SUMS = ("rows", "loss", "users", "auc", "auc_rows", "weighted_auc")
_SUMS_DDL = "model int, slice int, grp int, " + ", ".join(f"{s} double" for s in _SUMS)


@dataclass(frozen=True, order=True)
class Model:
    """A trained variant, and the label and part that it predicts."""

    variant: str
    seed: int
    head: str
    part: str


@dataclass(frozen=True)
class Figures:
    """Figures of one model on one slice."""

    auc: Estimate
    uauc: Estimate
    gauc: Estimate
    log_loss: Estimate
    rows: int
    users: int
    """Users with both labels."""


def models(predictions: DataFrame) -> dict[Model, int]:
    """Number of rows of each model.

    Raises:
        InputError: a score is not a probability, or a label is neither 0 nor 1; names the model.
    """
    from pyspark.sql import functions as F

    keys = ("variant", "seed", "head", "part")
    score, label = F.col("score"), F.col("label")
    counts = predictions.groupBy(*keys).agg(
        F.count("*").alias("rows"),
        F.count_if(F.isnan(score) | (score < 0) | (score > 1)).alias("bad_scores"),
        F.count_if(~label.isin(0.0, 1.0)).alias("bad_labels"),
    )
    rows: dict[Model, int] = {}
    for row in counts.collect():
        model = Model(**{key: row[key] for key in keys})
        if row["bad_scores"] or row["bad_labels"]:
            raise InputError(
                f"predictions of {model}: {row['bad_scores']} of {row['rows']} scores are not "
                f"probabilities and {row['bad_labels']} labels are neither 0 nor 1. A NaN score "
                "means that training diverged: lower ranker.optimizer.learning_rate"
            )
        rows[model] = row["rows"]
    return rows


def evaluate(
    predictions: DataFrame, known: Mapping[Model, int], head: int, groups: int = GROUPS
) -> dict[tuple[Model, str], Figures]:
    """Figures of every model and slice.

    Args:
        predictions: schema ``predictions``.
        known: its models, see ``models``.
        head: events from which an item is in the head, see ``slices.head_threshold``.
        groups: user groups of the jackknife.
    """
    rows = _numbered(predictions, sorted(known), head, groups)
    wins = _range_wins(rows, groups)
    sums = _user_sums(rows)
    figures: dict[tuple[Model, str], Figures] = {}
    for number, model in enumerate(sorted(known)):
        for bit, name in enumerate(SAMPLE_SLICES):
            columns = np.zeros((len(_SUMS), groups))
            for group, values in sums.get((number, bit), {}).items():
                columns[:, group] = values
            s = dict(zip(_SUMS, columns, strict=True))
            if s["rows"].sum():
                figures[model, name] = Figures(
                    auc=auc_estimate(wins[number, bit]),
                    uauc=ratio_of_sums(s["auc"], s["users"]),
                    gauc=ratio_of_sums(s["weighted_auc"], s["auc_rows"]),
                    log_loss=ratio_of_sums(s["loss"], s["rows"]),
                    rows=int(s["rows"].sum()),
                    users=int(s["users"].sum()),
                )
    return figures


def as_metrics(figures: Mapping[tuple[Model, str], Figures], positive: str) -> list[Metric]:
    """The figures as metrics, without NaN (a slice without both labels).

    ``auc_gain`` is the paired difference in AUC between a variant and base, for base between base
    and floor. A head other than ``positive`` is part of the metric's name, such as ``auc[top]``.
    """
    metrics: list[Metric] = []
    for (model, name), f in figures.items():
        suffix = "" if model.head == positive else f"[{model.head}]"
        rows = {
            "auc": (f.auc, f.rows),
            "uauc": (f.uauc, f.users),
            "gauc": (f.gauc, f.users),
            "log_loss": (f.log_loss, f.rows),
        }
        against = {"floor": None, "base": "floor"}.get(model.variant, "base")
        if against:
            other = figures.get((replace(model, variant=against), name))
            if other is None and against == "floor":  # the floor does not depend on the seed
                other = figures.get((replace(model, variant=against, seed=0), name))
            if other:
                rows["auc_gain"] = (f.auc.minus(other.auc), f.rows)
        for metric, (estimate, n) in rows.items():
            if not np.isfinite(estimate.value):
                continue
            low, high = estimate.interval() or (None, None)
            metrics.append(
                Metric(
                    metric=metric + suffix,
                    value=estimate.value,
                    n=n,
                    part=model.part,
                    slice=name,
                    variant=model.variant,
                    seed=model.seed,
                    low=low,
                    high=high,
                )
            )
    return metrics


def _numbered(predictions: DataFrame, known: list[Model], head: int, groups: int) -> DataFrame:
    """The columns that numpy needs, as numbers: (model, user, grp, bits, score, label)."""
    from pyspark.sql import functions as F

    spark = predictions.sparkSession
    numbers = spark.createDataFrame(
        [(m.variant, m.seed, m.head, m.part, i) for i, m in enumerate(known)],
        "variant string, seed int, head string, part string, model int",
    )
    return predictions.join(F.broadcast(numbers), ["variant", "seed", "head", "part"]).select(
        "model",
        F.col("user_idx").alias("user"),
        F.pmod(F.xxhash64("user_idx"), F.lit(groups)).cast("int").alias("grp"),
        sample_bits(head).alias("bits"),
        F.col("score").cast("double").alias("score"),
        F.col("label").cast("double").alias("label"),
    )


def _range_wins(rows: DataFrame, groups: int) -> dict[tuple[int, int], list[RangeWins]]:
    """(model, slice) -> wins in each range, in ascending order of the score."""
    from pyspark.sql import functions as F

    p = F.least(F.greatest(F.col("score"), F.lit(CLAMP)), F.lit(1 - CLAMP))
    edge = float(np.log((1 - CLAMP) / CLAMP))
    step = (F.log(p / (1 - p)) + edge) / (2 * edge) * BUCKETS
    bucket = F.least(F.floor(step), F.lit(BUCKETS - 1)).cast("int")
    histogram = (
        rows.withColumn("bucket", bucket)
        .groupBy("model", "bits", "grp", "bucket")
        .agg(F.sum("label").alias("pos"), F.sum(1 - F.col("label")).alias("neg"))
        .withColumn("range", F.floor(F.col("bucket") / RANGE).cast("int"))
    )
    table = (
        histogram.groupBy("model", "range")
        .applyInArrow(partial(_range_task, groups=groups), _WINS_DDL)
        .toArrow()
    )
    order = np.lexsort([table[k].to_numpy() for k in ("range", "slice", "model")])
    model, bit, at, grp = (table[k].to_numpy()[order] for k in ("model", "slice", "range", "grp"))
    values = np.stack([table[w].to_numpy()[order] for w in _WINS])
    wins: dict[tuple[int, int], list[RangeWins]] = {}
    starts = np.flatnonzero(
        np.r_[True, (np.diff(model) != 0) | (np.diff(bit) != 0) | (np.diff(at) != 0)]
    )
    for start, stop in zip(starts, [*starts[1:], len(at)], strict=True):
        dense = np.zeros((len(_WINS), groups))
        dense[:, grp[start:stop]] = values[:, start:stop]
        wins.setdefault((int(model[start]), int(bit[start])), []).append(RangeWins(*dense))
    return wins


def _range_task(cells: pa.Table, groups: int) -> pa.Table:
    """Cells (bits, grp, bucket, pos, neg) of one model and range -> wins per slice and group."""
    bits = cells["bits"].to_numpy()
    bucket, grp = cells["bucket"].to_numpy(), cells["grp"].to_numpy()
    pos, neg = cells["pos"].to_numpy(), cells["neg"].to_numpy()
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("slice", "grp", *_WINS)}
    for bit in range(len(SAMPLE_SLICES)):
        inside = (bits >> bit & 1) == 1
        if not inside.any():
            continue
        wins = wins_in_range(bucket[inside], grp[inside], pos[inside], neg[inside], groups)
        there = np.flatnonzero(wins.positives + wins.negatives)
        columns["slice"].append(np.full(len(there), bit))
        columns["grp"].append(there)
        for name in _WINS:
            columns[name].append(getattr(wins, name)[there])
    model, at = cells["model"][0].as_py(), cells["range"][0].as_py()
    rows = sum(map(len, columns["grp"]))
    return pa.table(
        {
            "model": pa.array(np.full(rows, model), pa.int32()),
            "slice": pa.array(np.concatenate(columns["slice"]), pa.int32()),
            "range": pa.array(np.full(rows, at), pa.int32()),
            "grp": pa.array(np.concatenate(columns["grp"]), pa.int32()),
            **{name: pa.array(np.concatenate(columns[name])) for name in _WINS},
        }
    )


def _user_sums(rows: DataFrame) -> dict[tuple[int, int], dict[int, tuple[float, ...]]]:
    """(model, slice) -> group -> sums over users, in the order of ``_SUMS``."""
    from pyspark.sql import functions as F

    sums = (
        rows.repartition("user")
        .sortWithinPartitions("user")
        .mapInArrow(_user_task, _SUMS_DDL)
        .groupBy("model", "slice", "grp")
        .agg(*[F.sum(s).alias(s) for s in _SUMS])
    )
    by_group: dict[tuple[int, int], dict[int, tuple[float, ...]]] = {}
    for row in sums.collect():
        key = (row["model"], row["slice"])
        by_group.setdefault(key, {})[row["grp"]] = tuple(row[s] for s in _SUMS)
    return by_group


def _user_task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows sorted by user -> sums per chunk of whole users."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(b.num_rows for b in waiting) < CHUNK:
            continue
        table = pa.Table.from_batches(waiting)
        user = table["user"].to_numpy()
        whole = int(np.searchsorted(user, user[-1]))  # the last user may continue in the next batch
        if whole:
            yield from _chunk_sums(table.slice(0, whole))
        waiting = table.slice(whole).to_batches()
    if waiting:
        yield from _chunk_sums(pa.Table.from_batches(waiting))


def _chunk_sums(chunk: pa.Table) -> Iterator[pa.RecordBatch]:
    model, user = chunk["model"].to_numpy(), chunk["user"].to_numpy()
    score, label = chunk["score"].to_numpy(), chunk["label"].to_numpy()
    order = np.lexsort((score, user, model))
    model, user, score, label = model[order], user[order], score[order], label[order]
    grp, bits = chunk["grp"].to_numpy()[order], chunk["bits"].to_numpy()[order]
    changes = (np.diff(model) != 0) | (np.diff(user) != 0)
    who = np.cumsum(np.r_[True, changes])  # (rows,) one number per model and user
    p = np.clip(score, CLAMP, 1 - CLAMP)
    loss = -(label * np.log(p) + (1 - label) * np.log1p(-p))
    groups = int(grp.max()) + 1
    cell = model.astype(np.int64) * groups + grp
    cells = int(cell.max()) + 1
    for bit in range(len(SAMPLE_SLICES)):
        inside = np.flatnonzero(bits >> bit & 1)
        if not len(inside):
            continue
        first, auc, size = user_auc(who[inside], score[inside], label[inside])
        at = cell[inside][first]
        sums = {
            "rows": np.bincount(cell[inside], minlength=cells).astype(float),
            "loss": np.bincount(cell[inside], loss[inside], cells),
            "users": np.bincount(at, minlength=cells).astype(float),
            "auc": np.bincount(at, auc, cells),
            "auc_rows": np.bincount(at, size, cells),
            "weighted_auc": np.bincount(at, auc * size, cells),
        }
        there = np.flatnonzero(sums["rows"])
        yield pa.RecordBatch.from_pydict(
            {
                "model": pa.array(there // groups, pa.int32()),
                "slice": pa.array(np.full(len(there), bit), pa.int32()),
                "grp": pa.array(there % groups, pa.int32()),
                # bincount of an empty array gives integers, weighted or not.
                **{name: pa.array(sums[name][there].astype(float)) for name in _SUMS},
            }
        )
