"""Drift: does the frozen codebook still fit the items that have come since it was fitted?

At the fit, items of the same population are held out. At each assignment, items that are new or
have other content since then are compared with them, so that k-means' better figures on its own
sample do not count as drift:

* **error**: mean of ||rest||^2 / ||x||^2 after the last level, new over held out, with a normal
  99 % interval of the logarithm of the ratio (delta method). Due where all of the interval lies
  above ``drift_max_error_ratio``.
* **usage**: Jensen-Shannon divergence (bits) of the level-1 codes of new and held-out items. It is
  positive for finite samples of one distribution, too; what 200 random divisions of the two give on
  average is taken off (the rest is the shift), and 2.58 times their deviation must be cleared as
  well. Due where it lies above ``drift_max_usage_shift``; .05 is about a population stability index
  of .25, since for small shifts PSI = 8 ln 2 JS.
* **dead codes**: the largest rise, over levels, of the share of codes that no item of the catalogue
  has, against the share at the fit. Due above ``drift_max_dead``.

All three are [D]ecisions of ours; a limit asks for a difference that matters and for certainty, so
that neither noise in small samples nor trifles in large ones call for a refit. Items are taken to
be independent: a catalogue that grows by batches of near-duplicates is judged too surely.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.config.codes import Codes
from qarm.kernels.nearest import Floats
from qarm.lake import files, manifest
from qarm.lake.tables import TableRef
from qarm.ledger import Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from qarm.pipeline.context import Context

MOST = 20_000
"""Most items of either kind that are looked at."""
_DIVISIONS = 200
_Z = 2.5758  # 99 %, two-sided
_ARTIFACT = "drift"


@dataclass(frozen=True, eq=False)
class Figures:
    """What the test needs to know of some items under a codebook."""

    n: int
    mean: float
    """Of the relative error."""
    variance: float
    usage: NDArray[np.int64]
    """(K_1,) items of each level-1 code."""


def figures(codebook: Codebook, x: Floats, *, threads: int = 1) -> Figures:
    """Of vectors (n, d), of which none is zero, n at least 2."""
    codes, left = codebook.rq(x, threads=threads)
    relative = left / np.einsum("ij,ij->i", x, x, dtype=np.float64)
    usage = np.bincount(codes[:, 0], minlength=codebook.sizes[0])
    return Figures(len(x), float(relative.mean()), float(relative.var(ddof=1)), usage)


def error_ratio(held_out: Figures, new: Figures) -> tuple[float, float, float]:
    """Mean relative error, new over held out, with the ends of its 99 % interval."""
    ratio = new.mean / held_out.mean if held_out.mean > 0 else (1.0 if new.mean == 0 else np.inf)
    parts = [f.variance / (f.n * f.mean**2) for f in (held_out, new) if f.mean > 0]
    spread = float(np.exp(_Z * np.sqrt(sum(parts))))
    return float(ratio), float(ratio / spread), float(ratio * spread)


def usage_shift(
    held_out: NDArray[np.int64], new: NDArray[np.int64], seed: int = 0
) -> tuple[float, float]:
    """Jensen-Shannon divergence of two counts (K,), in bits, less what chance gives; and the
    deviation of what chance gives. Chance: random divisions of the items into sets of these sizes.
    """
    both, size = held_out + new, int(new.sum())
    rng = np.random.default_rng(seed)
    used = both > 0
    drawn = rng.multivariate_hypergeometric(both[used], size, _DIVISIONS, method="marginals")
    chance = np.array([_divergence(both[used] - part, part) for part in drawn])
    return float(_divergence(held_out, new) - chance.mean()), float(chance.std())


def _divergence(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2

    def relative(of: NDArray[np.float64]) -> float:
        there = of > 0
        return float((of[there] * np.log2(of[there] / middle[there])).sum())

    return (relative(p) + relative(q)) / 2


@dataclass(frozen=True)
class Verdict:
    """Outcome of the test."""

    reasons: list[str]
    """In words; none: no refit is due."""
    metrics: list[Metric]


def judge(
    held_out: Figures,
    new: Figures,
    dead_at_fit: Sequence[float],
    dead_now: Sequence[float],
    limits: Codes,
) -> Verdict:
    """Whether a refit is due.

    Args:
        held_out: of items held out at the fit.
        new: of items that have come or changed since.
        dead_at_fit: share of codes of each level that no item had.
        dead_now: likewise, of the catalogue now.
        limits: the settings ``drift_*``.
    """
    ratio, low, high = error_ratio(held_out, new)
    shift, deviation = usage_shift(held_out.usage, new.usage, limits.seed)
    rise = max(now - then for now, then in zip(dead_now, dead_at_fit, strict=True))
    reasons = []
    if low > limits.drift_max_error_ratio:
        reasons.append(
            f"the relative error of {new.n} new items is {ratio:.2f} times that of {held_out.n} "
            f"items held out at the fit (99 % interval {low:.2f} to {high:.2f}, limit "
            f"{limits.drift_max_error_ratio:g})"
        )
    spread = _Z * deviation
    if shift - spread > limits.drift_max_usage_shift:
        reasons.append(
            f"new items use the level-1 codes otherwise: {shift:.3f} bits of divergence beyond "
            f"chance, limit {limits.drift_max_usage_shift:g}"
        )
    if rise > limits.drift_max_dead:
        reasons.append(
            f"the share of codes without items has risen by {rise:.1%} of a level, limit "
            f"{limits.drift_max_dead:.0%}"
        )

    def metric(
        name: str, value: float, low: float | None = None, high: float | None = None
    ) -> Metric:
        return Metric(metric=name, value=value, n=new.n, variant="rq", low=low, high=high)

    return Verdict(
        reasons,
        [
            metric("rq_drift_error_ratio", ratio, low, high),
            metric("rq_drift_usage_shift", shift, shift - spread, shift + spread),
            metric("rq_drift_dead", rise),
            metric("refit_due", float(bool(reasons))),
        ],
    )


def rows_to_hold_out(rows: int, config: Codes) -> int:
    """How many of the items that codebooks may be fitted on are kept for the test; 0: too few."""
    wanted = min(MOST, int(rows * config.drift_holdout))
    return wanted if wanted >= config.drift_min_items else 0


def record(
    context: Context, codebook: Codebook, fitted: Floats, held_out: Floats
) -> dict[str, dict[str, Any]]:
    """Write what the test compares with; the stage's artifacts: none where nothing was held out.

    Args:
        context: of stage fit-codebooks.
        codebook: as published.
        fitted: (n, d) the sample that it was fitted on.
        held_out: (m, d) items that it was not fitted on.
    """
    import torch

    if len(held_out) < 2 or not codebook.levels:
        return {}
    threads = torch.get_num_threads()
    found = figures(codebook, held_out, threads=threads)
    codes = codebook.rq(fitted, threads=threads)[0]
    dead = [
        1 - len(np.unique(column)) / size
        for column, size in zip(codes.T, codebook.sizes, strict=True)
    ]
    uri = context.work_dir(codebook.codebook_id, "drift.json")
    files.write_text(uri, json.dumps({**vars(found), "usage": found.usage.tolist(), "dead": dead}))
    return {_ARTIFACT: {"uri": uri, "version": codebook.codebook_id}}


def check_drift(
    context: Context, codebook: Codebook, vectors: DataFrame, ids: DataFrame
) -> list[Metric]:
    """The test, of stage assign-codes: its figures, and a line in the log that says why.

    Args:
        context: of the stage.
        codebook: that the catalogue is coded with.
        vectors: rows of item_embeddings of its encoder.
        ids: its rows of semantic_ids.

    Returns:
        ``rq_drift_*`` and ``refit_due`` (0 or 1); none where there is nothing to judge by.
    """
    import torch
    from pyspark.sql import functions as F

    fit = manifest.find(context.lake.root, "fit-codebooks")
    about = fit.artifacts.get(_ARTIFACT, {}) if fit is not None else {}
    if fit is None or about.get("version") != codebook.codebook_id:
        return []  # the user's own codebook, or too few items to hold any out
    rows = _sample_of_new(context, fit, vectors, ids)
    if rows is None:
        return []
    if rows.num_rows < context.config.codes.drift_min_items:
        context.say(
            f"{rows.num_rows} new items since the fit: too few to tell whether a refit is due "
            f"(codes.drift_min_items = {context.config.codes.drift_min_items})"
        )
        return []
    known = json.loads(files.read_text(about["uri"]))
    dead = known.pop("dead")
    held_out = Figures(**{**known, "usage": np.array(known["usage"], np.int64)})
    x = lists_to_matrix(rows["vector"], "item_embeddings").astype(np.float32, copy=False)
    new = figures(codebook, x, threads=torch.get_num_threads())
    used = {
        r["level"]: int(r["used"])
        for r in ids.select(F.posexplode("rq").alias("level", "code"))
        .groupBy("level")
        .agg(F.count_distinct("code").alias("used"))
        .collect()
    }
    dead_now = [1 - used.get(level, 0) / size for level, size in enumerate(codebook.sizes)]
    verdict = judge(held_out, new, dead, dead_now, context.config.codes)
    if verdict.reasons:
        context.say(f"refit is due: {'; '.join(verdict.reasons)}")
    else:
        context.say(f"no refit is due: {new.n} new items fare like those held out at the fit")
    return verdict.metrics


def _sample_of_new(
    context: Context, fit: manifest.Manifest, vectors: DataFrame, ids: DataFrame
) -> pa.Table | None:
    """``vector`` of at most ``MOST`` items, by hash, that the table of the fit did not have as they
    are; None: it is the same table. Zero vectors are left out."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    then, now = TableRef(**fit.inputs["item_embeddings"]), context.ref("item_embeddings")
    if then == now:
        return None
    content = vectors.where(~F.forall("vector", lambda x: x == 0))

    def sample(new: DataFrame) -> pa.Table:
        drawn = new.select("item_id").orderBy(F.xxhash64("item_id"), "item_id").limit(MOST)
        return content.join(F.broadcast(drawn), "item_id").select("vector").toArrow()

    narrow = content.select("item_id", "content_hash")
    encoder = fit.facts["encoder_version"]
    try:
        before = context.lake.read(then).where(F.col("encoder_version") == encoder)
        before = before.select("item_id", "content_hash")
        return sample(narrow.join(before, ["item_id", "content_hash"], "left_anti"))
    except (PySparkException, Py4JJavaError):
        context.say(
            f"version {then.version} of item_embeddings, which the codebook was fitted on, cannot "
            "be read any more; items coded later than the first ones count as new"
        )
        first = ids.agg(F.min("assigned_at")).first()
        later = ids.where(F.col("assigned_at") > F.lit(first[0] if first else None))
        return sample(narrow.join(later.select("item_id"), "item_id", "left_semi"))
