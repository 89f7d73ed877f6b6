"""Refresh: a refit that keeps the numbers of its parent codebook where the meaning is the same.

1. The refit starts from the parent codebook: each centre at the mean of the vectors (on deeper
   levels, of what is left of them) of the sample's items that had its code. Items link the two
   codebooks, so this works after a change of the encoder as well.
2. Clusters are then numbered level by level by an assignment problem, so that most items keep their
   number. Level 1: the number of items with old code i and new cluster j. Deeper: centroids act
   inside every prefix, and what is left of an item whose prefix has changed is another vector, so
   first count items that have kept their whole prefix, and only where these leave a choice, all.
   (Each level is optimal given the levels before it.)
3. A cluster that shares no item with any free number keeps the number it started with.

A level that grows keeps its numbers and gets more; one that shrinks keeps the codes below its new
size; an added level is fitted afresh. A level of another kind, such as FSQ, has no clusters to
number: under the same encoder its coder is kept and only its table is fitted again; under another
one it is trained again, and bits rarely keep their meaning. VQ anchors that stay in the pool keep
their number; new ones take the numbers of those that left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.codes.kinds import kmeans_sizes
from qarm.codes.level_kind import LevelCoder
from qarm.codes.matching import (
    Numbers,
    changed,
    keep_anchor_numbers,
    match,
    renumber,
    warm_start,
)
from qarm.config.codes import Codes
from qarm.errors import InputError
from qarm.kernels.nearest import Floats, Ints
from qarm.ledger import Metric

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame


@dataclass(frozen=True, eq=False)
class Refit:
    """A refit in progress: ``begin`` creates it before k-means, ``finish`` completes it after."""

    codebook: Codebook
    """The parent."""
    x: Floats
    """(n, d) the sample."""
    old: Ints
    """(n, L') its codes under the parent; -1: not known."""
    start: list[Floats] | None
    """Centres of each k-means level to start from; None: the parent has no residual levels."""
    facts: dict[str, str]
    """What a repeated run needs to know."""

    def coder(self, kind: str, encoder: str, sizes: Sequence[int]) -> LevelCoder | None:
        """The parent's coder of the last level, if it can be kept.

        It can if it is of this kind and encoder, follows as many levels (else what they leave is
        another vector) and makes as many codes.
        """
        book = self.codebook
        same = (
            book.encoder_version == encoder
            and len(book.levels) == len(sizes)
            and book.sizes[-1] == sizes[-1]
        )
        return book.last if same and book.last is not None and book.last.kind == kind else None

    def finish(self, fitted: Codebook) -> tuple[Codebook, list[Metric], str]:
        """Number the clusters and anchors of a fitted codebook as the parent's.

        Returns:
            The codebook, with the parent named in ``fit``; figures of what has changed; a line for
            the log.
        """
        import torch

        threads = torch.get_num_threads()
        order = keep_anchor_numbers(self.codebook.anchor_items, fitted.anchor_items)
        book = replace(
            fitted,
            anchors=fitted.anchors[order],
            anchor_items=fitted.anchor_items[order],
            fit={**fitted.fit, "parent": self.codebook.codebook_id},
        )
        metrics = _anchors_kept(self.codebook.anchor_items, book.anchor_items)
        if self.start is None or not fitted.levels:
            return book, metrics, f"{_shares(metrics)} of anchors kept"
        known = self.old[:, 0] >= 0
        x, old = self.x[known], self.old[known]
        new = book.rq(x, threads=threads)[0]
        clusters = len(book.levels) - (book.last is not None)
        numbers = match(old[:, :clusters], new[:, :clusters], book.sizes[:clusters])
        levels = (*renumber(book.levels[:clusters], numbers), *book.levels[clusters:])
        book = replace(book, levels=levels)
        figures = _changes(old, new, book.rq(x, threads=threads)[0])
        before, after, prefix = (
            _shares(figures[name]) for name in ("before_matching", "after", "prefix")
        )
        line = (
            f"share of {len(x)} items whose code changed, by level: {before} before matching to "
            f"codebook {self.codebook.codebook_id}, {after} after it; whose prefix: {prefix}"
        )
        return book, [*metrics, *(m for group in figures.values() for m in group)], line


def begin(parent: Codebook, x: Floats, encoder: str, old: Ints, config: Codes, uri: str) -> Refit:
    """Prepare a refit that keeps the numbers of the published codebook.

    Args:
        parent: the published codebook.
        x: (n, d) vectors of the sample.
        encoder: their encoder_version.
        old: (n, L') their codes under the parent, see ``old_codes``.
        config: section [codes].
        uri: file of the parent.
    """
    facts = {"parent_uri": uri}
    if not parent.levels:
        return Refit(parent, x, old, None, facts)
    same = parent.levels if encoder == parent.encoder_version else None
    start = warm_start(x, old, kmeans_sizes(config), parent=same, seed=config.seed)
    return Refit(parent, x, old, start, facts)


def old_codes(
    parent: Codebook, items: Numbers, x: Floats, encoder: str, ids: DataFrame | None
) -> Ints:
    """Codes (n, L') of the sample under the parent; -1 where an item has none.

    Under the same encoder the parent codes the vectors. Under another one, its codes of the same
    items are taken from semantic_ids.

    Args:
        parent: the published codebook.
        items: (n,) item_idx of the sample.
        x: (n, d) its vectors.
        encoder: their encoder_version.
        ids: rows of semantic_ids; None: there is no such table.

    Raises:
        InputError: other dimensions under the same encoder, or no item has a code of the parent.
    """
    import torch

    if not parent.levels:
        return np.empty((len(x), 0), np.int32)
    if encoder == parent.encoder_version:
        return parent.rq(x, threads=torch.get_num_threads())[0]
    codes = np.full((len(items), len(parent.levels)), -1, np.int32)
    if ids is not None:
        from pyspark.sql import functions as F

        wanted = ids.sparkSession.createDataFrame(_as_table(items))
        rows = (
            ids.where(F.col("codebook_id") == parent.codebook_id)
            .select("item_idx", "rq")
            .join(wanted, "item_idx")
            .toArrow()
        )
        if rows.num_rows:
            place = rows["place"].to_numpy()
            codes[place] = lists_to_matrix(rows["rq"], "semantic_ids")
    if (codes < 0).all():
        raise InputError(
            f"codes.refresh = 'matched': the vectors are of encoder {encoder}, codebook "
            f"{parent.codebook_id} is of {parent.encoder_version}, and semantic_ids has codes of "
            f"that codebook for none of the {len(items)} items, so nothing links the two; run "
            "assign-codes before the encoder changes, or set codes.refresh = 'fresh'"
        )
    return codes


def _as_table(items: Numbers) -> pa.Table:
    import pyarrow as pa

    return pa.table({"item_idx": items, "place": np.arange(len(items))})


def _changes(old: Ints, fitted: Ints, numbered: Ints) -> dict[str, list[Metric]]:
    after, prefix = changed(old, numbered)
    groups = {
        "before_matching": ("rq_changed_before_matching", changed(old, fitted)[0]),
        "after": ("rq_changed", after),
        "prefix": ("rq_prefix_changed", prefix),
    }
    return {
        group: [
            Metric(metric=f"{name}_l{level}", value=value, n=len(old), part="fit", variant="rq")
            for level, value in enumerate(values, start=1)
        ]
        for group, (name, values) in groups.items()
    }


def _anchors_kept(old: Numbers, new: Numbers) -> list[Metric]:
    """Share of the parent's anchors that are anchors still, under the same number."""
    if not len(old):
        return []
    common = min(len(old), len(new))
    value = float((old[:common] == new[:common]).sum() / len(old))
    return [Metric(metric="vq_anchors_kept", value=value, n=len(old), part="fit", variant="vq")]


def _shares(metrics: Sequence[Metric]) -> str:
    return ", ".join(f"{m.value:.1%}" for m in metrics)
