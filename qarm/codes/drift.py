"""Drift test: does the frozen codebook still fit the items that have come since its fit?

At the fit, items of the same population are held out. At each assignment, items that are new or
have other content since then are compared with them: the items fitted on would not do, since their
error is lower:

* **error**: mean of ||rest||^2 / ||x||^2 after the last level, new over held out, with a normal
  99 % interval of the logarithm of the ratio (delta method). Due where all of the interval lies
  above setting ``drift_max_error_ratio``.
* **usage**: Jensen-Shannon divergence (bits) of the level-1 codes of new and held-out items. It is
  positive for finite samples of one distribution, too: the mean over 200 random divisions of the
  two is subtracted (the rest is the shift), and the shift must exceed 2.58 standard deviations of
  these as well. Due where it lies above ``MAX_USAGE_SHIFT``; .05 is about a population stability
  index of .25, since for small shifts PSI = 8 ln 2 JS.
* **dead codes**: the largest rise, over levels, of the share of codes that no item of the catalogue
  has, against the share at the fit. Due above ``MAX_DEAD``.

All three are decisions of ours. A refit needs a difference that matters and is certain, so that
neither noise in small samples nor trifles in large ones call for it. Items are assumed to be
independent: for a catalogue that grows by batches of near-duplicates the test is overconfident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.config.codes import Codes
from qarm.kernels.nearest import Floats
from qarm.lake.tables import Lake, TableRef
from qarm.ledger import Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

MOST = 20_000
"""Maximum number of items of either kind that are compared."""
MIN_ITEMS = 100
"""With fewer items held out, or new since the fit, there is no test."""
MAX_USAGE_SHIFT = 0.05
"""Bits of divergence of the level-1 codes above which a refit is due."""
MAX_DEAD = 0.1
"""Rise of the share of a level's codes without items above which a refit is due."""
_DIVISIONS = 200
_Z = 2.5758  # 99 %, two-sided


@dataclass(frozen=True, eq=False)
class Figures:
    """What the test needs to know about some items under a codebook."""

    n: int
    mean: float
    """Of the relative error."""
    variance: float
    usage: NDArray[np.int64]
    """(K_1,) items of each level-1 code."""


def figures(codebook: Codebook, x: Floats, *, threads: int = 1) -> Figures:
    """Of vectors (n, d); none is zero, n is at least 2."""
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
    """Shift between two counts (K,): Jensen-Shannon divergence in bits, less its mean by chance.

    Returns:
        The shift, and the standard deviation by chance, from random divisions of the items into
        sets of these sizes.
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
    """Why a refit is due; empty: it is not."""
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
        limits: section [codes], setting ``drift_max_error_ratio``.
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
    if shift - spread > MAX_USAGE_SHIFT:
        reasons.append(
            f"new items use other level-1 codes: {shift:.3f} bits of divergence beyond "
            f"chance, limit {MAX_USAGE_SHIFT:g}"
        )
    if rise > MAX_DEAD:
        reasons.append(
            f"the share of codes without items has risen by {rise:.1%} of a level, limit "
            f"{MAX_DEAD:.0%}"
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
    """Number of items held out for the test, of those to fit on; 0: there are too few."""
    wanted = min(MOST, int(rows * config.drift_holdout))
    return wanted if wanted >= MIN_ITEMS else 0


def describe_fit(codebook: Codebook, fitted: Floats, held_out: Floats) -> dict[str, Any] | None:
    """What the test compares with later, as JSON can hold it; None where nothing was held out.

    Args:
        codebook: as published.
        fitted: (n, d) the sample that it was fitted on.
        held_out: (m, d) items that it was not fitted on.
    """
    import torch

    if len(held_out) < 2 or not codebook.levels:
        return None
    threads = torch.get_num_threads()
    of_held_out = figures(codebook, held_out, threads=threads)
    codes = codebook.rq(fitted, threads=threads)[0]
    dead = [
        1 - len(np.unique(column)) / size
        for column, size in zip(codes.T, codebook.sizes, strict=True)
    ]
    return {**vars(of_held_out), "usage": of_held_out.usage.tolist(), "dead": dead}


def check_drift(
    at_fit: dict[str, Any], codebook: Codebook, new: Floats, ids: DataFrame, limits: Codes
) -> Verdict:
    """The test on the catalogue as it is now.

    Args:
        at_fit: see ``describe_fit``.
        codebook: that the catalogue is coded with.
        new: (n, d) vectors of items that have come or changed since the fit.
        ids: rows of semantic_ids of the codebook.
        limits: section [codes], setting ``drift_max_error_ratio``.
    """
    import torch
    from pyspark.sql import functions as F

    known = dict(at_fit)
    dead_at_fit = known.pop("dead")
    held_out = Figures(**{**known, "usage": np.array(known["usage"], np.int64)})
    used = {
        r["level"]: int(r["used"])
        for r in ids.select(F.posexplode("rq").alias("level", "code"))
        .groupBy("level")
        .agg(F.count_distinct("code").alias("used"))
        .collect()
    }
    dead_now = [1 - used.get(level, 0) / size for level, size in enumerate(codebook.sizes)]
    of_new = figures(codebook, new, threads=torch.get_num_threads())
    return judge(held_out, of_new, dead_at_fit, dead_now, limits)


def sample_new(
    lake: Lake, then: TableRef, encoder: str, vectors: DataFrame, ids: DataFrame
) -> tuple[Floats, bool]:
    """Vectors of items that are not in the table of the fit with the same content.

    At most ``MOST``, drawn by hash. Zero vectors are left out.

    Args:
        lake: to read ``then`` from.
        then: item_embeddings as the codebook was fitted on.
        encoder: encoder_version that it was fitted on.
        vectors: rows of item_embeddings now, of that encoder.
        ids: rows of semantic_ids of the codebook.

    Returns:
        (n, d) vectors; whether ``then`` could be read. If not, items coded later than the first
        ones count as new.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    content = vectors.where(~F.forall("vector", lambda x: x == 0))

    def sample(new: DataFrame) -> Floats:
        drawn = new.select("item_id").orderBy(F.xxhash64("item_id"), "item_id").limit(MOST)
        rows: pa.Table = content.join(F.broadcast(drawn), "item_id").select("vector").toArrow()
        return lists_to_matrix(rows["vector"], "item_embeddings").astype(np.float32, copy=False)

    narrow = content.select("item_id", "content_hash")
    try:
        before = lake.read(then).where(F.col("encoder_version") == encoder)
        before = before.select("item_id", "content_hash")
        return sample(narrow.join(before, ["item_id", "content_hash"], "left_anti")), True
    except (PySparkException, Py4JJavaError):
        first = ids.agg(F.min("assigned_at")).first()
        later = ids.where(F.col("assigned_at") > F.lit(first[0] if first else None))
        return sample(narrow.join(later.select("item_id"), "item_id", "left_semi")), False
