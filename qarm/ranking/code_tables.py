"""Embedding tables of codes: which rows an item looks up, and where the rows start.

A table that starts as noise loses to the frozen vector; one that starts in content space equals
it. Starting as noise of the same norms, or shuffled, are the controls that show that it is the
geometry that does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook
from qarm.codes.prefix import hash_prefixes, prefix_keys
from qarm.errors import ConfigError, InputError
from qarm.ranking.item_table import ItemTable

Layout = Literal["prefix", "isolated"]
Start = Literal["content", "random", "shuffled"]


@dataclass(frozen=True)
class RqRows:
    """Rows of the RQ table by code. Row 0 stands for "none", and stays zero.

    ``isolated``: a row for each code of each level. ``prefix``: a row for each prefix (c1),
    (c1, c2), ... of the catalogue (Meta, arXiv 2504.02137), numbered while they fit into the
    largest table allowed, hashed into it otherwise. A prefix that no item had when rows were
    numbered looks up row 0.

    Attributes:
        layout: prefix or isolated.
        sizes: L level sizes.
        count: rows of the table.
        keys: prefix, numbered: the known prefixes' numbers of each length, ascending.
    """

    layout: Layout
    sizes: tuple[int, ...]
    count: int
    keys: tuple[NDArray[np.int64], ...] = ()

    @classmethod
    def of(cls, table: ItemTable, sizes: Sequence[int], layout: Layout, most: int) -> RqRows:
        """Rows for the codes of ``table``; at most ``most`` for prefixes.

        Raises:
            InputError: codes do not fit the level sizes.
        """
        if layout == "isolated":
            return cls(layout, tuple(sizes), 1 + sum(sizes))
        known = np.flatnonzero(table.has_code)
        numbers = prefix_keys(np.asarray(table.rq[known], np.int64), sizes)
        keys = tuple(np.unique(numbers[:, level]) for level in range(len(sizes)))
        count = 1 + sum(map(len, keys))
        if count > most:
            return cls(layout, tuple(sizes), most)
        return cls(layout, tuple(sizes), count, keys)

    def rows(self, codes: NDArray[np.integer]) -> NDArray[np.int32]:
        """(n, L) rows of codes (n, L); a negative code has row 0."""
        known = (codes >= 0).all(axis=1) if codes.shape[1] else np.zeros(len(codes), np.bool_)
        found = np.zeros(codes.shape, np.int32)
        codes = np.asarray(codes[known], np.int64)
        if self.layout == "isolated":
            found[known] = codes + 1 + np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
            return found
        numbers = prefix_keys(codes, self.sizes)
        if not self.keys:
            found[known] = 1 + hash_prefixes(numbers, self.count - 1)
            return found
        start = 1
        for level, keys in enumerate(self.keys):
            place = np.searchsorted(keys, numbers[:, level]).clip(max=len(keys) - 1)
            hit = keys[place] == numbers[:, level]
            found[known, level] = np.where(hit, place + start, 0)
            start += len(keys)
        return found


@dataclass(frozen=True)
class TableStart:
    """How a code table starts.

    Attributes:
        kind: content: rows in content space; random: rows of the same norms that point anywhere;
            shuffled: the same rows, changing places within their level.
        scale: factor on all rows.
        seed: of the two controls.
    """

    kind: Start
    scale: float
    seed: int

    def of(
        self, weight: NDArray[np.float32], levels: Sequence[NDArray[np.integer]]
    ) -> NDArray[np.float32]:
        """``weight`` (rows, d) scaled, or its control within each group of rows."""
        weight = weight * np.float32(self.scale)
        rng = np.random.default_rng([self.seed & 0xFFFFFFFF, len(self.kind)])
        for rows in levels if self.kind != "content" else ():
            if self.kind == "shuffled":
                weight[rows] = weight[rng.permutation(rows)]
                continue
            noise = rng.standard_normal((len(rows), weight.shape[1]), dtype=np.float32)
            noise /= np.linalg.norm(noise, axis=1, keepdims=True)
            weight[rows] = noise * np.linalg.norm(weight[rows], axis=1, keepdims=True)
        return weight


def rq_start(
    table: ItemTable,
    rows: NDArray[np.int32],
    count: int,
    levels: Sequence[NDArray[np.float32]],
    start: TableStart,
) -> NDArray[np.float32]:
    """Start of the RQ table: the sum over an item's rows is the scale x its reconstruction.

    The row of a code, or of a prefix that ends in it, starts at the centroid of that code.

    Args:
        table: codes (n, L).
        rows: (n, L) of ``RqRows.rows``.
        count: rows of the table; d columns.
        levels: centroids of each level.
    """
    weight = np.zeros((count, levels[0].shape[1]), np.float32)
    known = np.flatnonzero(table.has_code)
    used = []
    for level, centroids in enumerate(levels):
        weight[rows[known, level]] = centroids[table.rq[known, level]]
        used.append(np.unique(rows[known, level]))
    weight[0] = 0.0
    return start.of(weight, used)


def vq_start(anchors: NDArray[np.float32], start: TableStart) -> NDArray[np.float32]:
    """Start of the VQ table: row 1 + a at the scale x the vector of anchor a; row 0 (none) zero."""
    weight = np.concatenate([np.zeros_like(anchors[:1]), anchors])
    return start.of(weight, [np.arange(1, len(weight))])


def check(table: ItemTable, book: Codebook | None, uses: set[str], start: Start) -> Codebook:
    """The codebook, if it is that of the table's codes.

    Raises:
        ConfigError: no codebook, or one without levels or anchors that a variant needs.
        InputError: codes of other levels, or of more anchors.
    """
    if book is None:
        raise ConfigError(
            f'code tables start from the codebook (ranker.code_start = "{start}"), and there is '
            "none; bring it under [external.tables] codebooks, or leave vq and rq out of "
            "ranker.variants"
        )
    for use, seen, what in (("rq", book.sizes, "levels"), ("vq", book.anchors, "anchors")):
        if use in uses and not len(seen):
            raise ConfigError(
                f"ranker.variants asks for {use}, but codebook {book.codebook_id} has no {what}"
            )
    if "rq" in uses and table.rq.shape[1] != len(book.levels):
        raise InputError(
            f"codes have {table.rq.shape[1]} levels, codebook {book.codebook_id} has "
            f"{len(book.levels)}; bring the codebook that the codes were assigned with"
        )
    if "vq" in uses and (
        not table.vq.shape[1] or int(table.vq.max(initial=-1)) >= len(book.anchors)
    ):
        raise InputError(
            f"VQ codes name {table.vq.shape[1]} anchors up to {table.vq.max(initial=-1)}, codebook "
            f"{book.codebook_id} has {len(book.anchors)}; bring the codebook that the codes were "
            "assigned with"
        )
    return book
