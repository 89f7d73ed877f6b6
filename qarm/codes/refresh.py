"""Refresh: a refit that keeps to the codebook before it, so that equal meaning keeps equal number.

1. The refit starts where the parent codebook stands: each centre at the mean of the vectors (of
   what is left of them, on deeper levels) of the sample's items that had its code. Items link the
   two codebooks, so this holds when the encoder has changed as well.
2. Clusters are then numbered level by level by an assignment problem, so that most items keep their
   number. Level 1: the number of items with old code i and new cluster j. Deeper: centroids act
   inside every prefix, and what is left of an item whose prefix has changed is another vector, so
   first count items that have kept their whole prefix, and only where these leave a choice, all.
   (Each level is optimal given the levels before it.)
3. A cluster that shares no item with any free number keeps the number it started with.

A level that grows keeps its numbers and gets more; one that shrinks keeps the codes below its new
size; an added level is fitted afresh. A level of FSQ has no clusters to number: under the same
encoder its projection is kept and only what its codes stand for is made anew; under another one it
is trained anew, and bits rarely mean the same again. VQ anchors that stay in the pool keep their
number; those that are gone are replaced in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qarm.codes.codebook import Codebook, lists_to_matrix
from qarm.codes.fsq import Projection
from qarm.codes.matching import (
    Numbers,
    changed,
    keep_anchor_numbers,
    match,
    renumber,
    warm_start,
)
from qarm.errors import InputError
from qarm.kernels.nearest import Floats, Ints
from qarm.lake import files, manifest
from qarm.lake.tables import TableRef
from qarm.ledger import Metric

if TYPE_CHECKING:
    import pyarrow as pa

    from qarm.pipeline.context import Context

_STAGE = "fit-codebooks"


@dataclass(frozen=True, eq=False)
class Parent:
    """The codebook that a refit keeps to."""

    codebook: Codebook
    uri: str
    """Its file."""
    ids: TableRef | None
    """semantic_ids, where it has the parent's codes."""


@dataclass(frozen=True, eq=False)
class Refit:
    """A refit under way: made by ``begin`` before k-means, ended by ``finish`` after it."""

    codebook: Codebook
    """The parent."""
    x: Floats
    """(n, d) the sample."""
    old: Ints
    """(n, L') its codes under the parent; -1: not known."""
    start: list[Floats] | None
    """Centres of each k-means level to start from; None: the parent has no residual levels."""
    facts: dict[str, str]
    """What a run that is made again has to know."""

    def projection(self, encoder: str, sizes: Sequence[int]) -> Projection | None:
        """That of the parent's last level, if it is of this encoder, follows as many levels (else
        what they leave is another vector) and makes as many codes."""
        book = self.codebook
        same = (
            book.encoder_version == encoder
            and len(book.levels) == len(sizes)
            and book.sizes[-1] == sizes[-1]
        )
        return book.projection if same else None

    def finish(self, fitted: Codebook) -> tuple[Codebook, list[Metric], str]:
        """The codebook that was fitted with its clusters and anchors numbered as the parent's, and
        the parent named in ``fit``; figures of what has changed; a line for the log."""
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
        clusters = len(book.levels) - (book.projection is not None)
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


def begin(context: Context, items: Numbers, x: Floats, encoder: str) -> Refit | None:
    """Prepare a refit that keeps to the published codebook; None: there is none, or
    ``codes.refresh`` is fresh.

    Args:
        context: of stage fit-codebooks.
        items: (n,) item_idx of the sample.
        x: (n, d) its vectors.
        encoder: their encoder_version.

    Raises:
        InputError: see ``find_parent`` and ``old_codes``.
    """
    parent = find_parent(context)
    if parent is None:
        return None
    book = parent.codebook
    facts = {"parent_uri": parent.uri}
    if not book.levels:
        return Refit(book, x, np.empty((len(x), 0), np.int32), None, facts)
    old = old_codes(context, parent, items, x, encoder)
    same = book.levels if encoder == book.encoder_version else None
    config = context.config.codes
    sizes = config.rq_levels[: len(config.rq_levels) - _levels_of_fsq(context)]
    start = warm_start(x, old, sizes, parent=same, seed=config.seed)
    return Refit(book, x, old, start, facts)


def _levels_of_fsq(context: Context) -> int:
    return int(context.config.codes.rq_last == "fsq")


def find_parent(context: Context) -> Parent | None:
    """The published codebook; None: there is none, or ``codes.refresh`` is fresh.

    A run that is made again keeps to the same parent, not to what it has published itself.

    Raises:
        InputError: the file is not what was published.
    """
    if context.config.codes.refresh == "fresh":
        return None
    before = manifest.find(context.lake.root, _STAGE)
    ids = manifest.pinned(context.lake.root, "semantic_ids")
    about = None
    if before is not None and before.run_id == context.run_id:
        if "parent" in before.facts:
            about = {"uri": before.facts["parent_uri"], "version": before.facts["parent"]}
        ids = TableRef(**before.inputs["semantic_ids"]) if "semantic_ids" in before.inputs else ids
    elif before is not None:
        about = {k: before.artifacts["codebook"][k] for k in ("uri", "version")}
    if about is None:
        context.say("no codebook before this one, so there is nothing to keep to")
        return None
    codebook = Codebook.from_bytes(files.open_file(about["uri"]).read(), about["uri"])
    if codebook.codebook_id != about["version"]:
        raise InputError(
            f"{about['uri']} should be codebook {about['version']}, is {codebook.codebook_id}; "
            "restore it, or set codes.refresh = 'fresh'"
        )
    return Parent(codebook, about["uri"], ids)


def old_codes(context: Context, parent: Parent, items: Numbers, x: Floats, encoder: str) -> Ints:
    """Codes (n, L') of the sample under the parent; -1 where an item has none.

    Where the encoder is the same, the parent codes the vectors. Where it is another, its codes of
    the same items are taken from semantic_ids.

    Raises:
        InputError: other dimensions under the same encoder, or no item has a code of the parent.
    """
    import torch

    book = parent.codebook
    if encoder == book.encoder_version:
        return book.rq(x, threads=torch.get_num_threads())[0]
    found = np.full((len(items), len(book.levels)), -1, np.int32)
    if parent.ids is not None:
        from pyspark.sql import functions as F

        context.inputs["semantic_ids"] = parent.ids
        wanted = context.spark.createDataFrame(_as_table(items))
        rows = (
            context.lake.read(parent.ids)
            .where(F.col("codebook_id") == book.codebook_id)
            .select("item_idx", "rq")
            .join(wanted, "item_idx")
            .toArrow()
        )
        if rows.num_rows:
            place = rows["place"].to_numpy()
            found[place] = lists_to_matrix(rows["rq"], "semantic_ids")
    if (found < 0).all():
        raise InputError(
            f"codes.refresh = 'matched': the vectors are of encoder {encoder}, codebook "
            f"{book.codebook_id} is of {book.encoder_version}, and semantic_ids has codes of that "
            f"codebook for none of the {len(items)} items, so nothing links the two; run "
            "assign-codes before the encoder changes, or set codes.refresh = 'fresh'"
        )
    return found


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
