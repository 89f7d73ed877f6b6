"""Embedding tables of codes: which rows an item looks up, and the rows' initial values.

Shapes: n items, L levels, K anchors per item, d dimensions of the aligned vector.

A table that starts as noise performs worse than the frozen vector; one that starts at centroids
performs as well. The starts ``random`` and ``shuffled`` are controls: they show that the geometry
of the codes makes the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qarm.codes.codebook import Codebook
from qarm.codes.prefix import hash_prefixes, prefix_keys
from qarm.errors import ConfigError, InputError
from qarm.ranking.item_table import ItemTable

CONTENT_SCALE = 4.0
"""Factor on aligned vectors (of length 1), centroids and anchors where the ranker reads them."""

Start = Literal["content", "random", "shuffled"]


@dataclass(frozen=True)
class RqRows:
    """Rows of the RQ table: one for each prefix (c1), (c1, c2), ... of the catalogue.

    Prefixes as in Meta's work on stable embeddings (arXiv 2504.02137). They are numbered if they
    fit into the table, hashed into it otherwise. Row 0 stands for "none" and stays zero; a prefix
    that no item had when rows were numbered looks up row 0.

    Attributes:
        sizes: L level sizes.
        count: rows of the table.
        keys: keys of the known prefixes of each length, ascending; empty: prefixes are hashed.
    """

    sizes: tuple[int, ...]
    count: int
    keys: tuple[NDArray[np.int64], ...] = ()

    @classmethod
    def of(cls, table: ItemTable, sizes: Sequence[int], max_rows: int) -> RqRows:
        """Rows for the codes of ``table``, at most ``max_rows``.

        Raises:
            InputError: codes do not fit the level sizes.
        """
        known = np.flatnonzero(table.has_code)
        prefixes = prefix_keys(np.asarray(table.rq[known], np.int64), sizes)
        keys = tuple(np.unique(prefixes[:, level]) for level in range(len(sizes)))
        count = 1 + sum(map(len, keys))
        if count > max_rows:
            return cls(tuple(sizes), max_rows)
        return cls(tuple(sizes), count, keys)

    def rows(self, codes: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """(n, L) rows of codes (n, L); a negative code has row 0."""
        rows = np.zeros(codes.shape, np.int32)
        known = (codes >= 0).all(axis=1) if codes.shape[1] else np.zeros(len(codes), np.bool_)
        prefixes = prefix_keys(np.asarray(codes[known], np.int64), self.sizes)
        if not self.keys:
            rows[known] = 1 + hash_prefixes(prefixes, self.count - 1)
            return rows
        first = 1
        for level, keys in enumerate(self.keys):
            place = np.searchsorted(keys, prefixes[:, level]).clip(max=len(keys) - 1)
            is_known = keys[place] == prefixes[:, level]
            rows[known, level] = np.where(is_known, place + first, 0)
            first += len(keys)
        return rows


@dataclass(frozen=True)
class TableStart:
    """How the rows of a code table are initialised.

    Attributes:
        kind: content: centroids and anchors' vectors; random: rows of the same norms and random
            directions; shuffled: the rows of each level in random order.
        seed: of the two controls.
    """

    kind: Start
    seed: int

    def of(
        self, weight: NDArray[np.float32], levels: Sequence[NDArray[np.integer[Any]]]
    ) -> NDArray[np.float32]:
        """``weight`` times ``CONTENT_SCALE``, or its control.

        Args:
            weight: (rows, d) centroids.
            levels: numbers of the rows of each level.
        """
        weight = weight * np.float32(CONTENT_SCALE)
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
    """Initial RQ table (count, d): the sum of an item's rows is its scaled reconstruction.

    The row of a prefix starts at the centroid of the prefix's last code.

    Args:
        table: codes (n, L).
        rows: (n, L) of ``RqRows.rows``.
        count: rows of the table.
        levels: centroids of each level, (codes, d).
        start: kind of the start.
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
    """Initial VQ table (1 + anchors, d): row 1 + a is the scaled vector of anchor a; row 0 zero."""
    weight = np.concatenate([np.zeros_like(anchors[:1]), anchors])
    return start.of(weight, [np.arange(1, len(weight))])


def check(table: ItemTable, book: Codebook | None, uses: set[str], start: Start) -> Codebook:
    """The codebook, after a check that the codes of ``table`` belong to it.

    Args:
        table: codes of the items.
        book: the codebook; None: there is none.
        uses: of rq and vq, those that some variant uses.
        start: for the message.

    Raises:
        ConfigError: no codebook, or one without levels or anchors that a variant needs.
        InputError: codes with another number of levels, or of more anchors.
    """
    if book is None:
        raise ConfigError(
            f'code tables start from the codebook (ranker.code_start = "{start}"), but there is '
            "none; add one under [external.tables] codebooks, or remove vq and rq from "
            "ranker.variants"
        )
    for use, vectors, what in (("rq", book.sizes, "levels"), ("vq", book.anchors, "anchors")):
        if use in uses and not len(vectors):
            raise ConfigError(
                f"ranker.variants asks for {use}, but codebook {book.codebook_id} has no {what}"
            )
    if "rq" in uses and table.rq.shape[1] != len(book.levels):
        raise InputError(
            f"codes have {table.rq.shape[1]} levels, codebook {book.codebook_id} has "
            f"{len(book.levels)}; use the codebook that the codes were assigned with"
        )
    highest = int(table.vq.max(initial=-1))
    if "vq" in uses and (not table.vq.shape[1] or highest >= len(book.anchors)):
        raise InputError(
            f"VQ codes have {table.vq.shape[1]} anchors per item, numbered up to {highest}; "
            f"codebook {book.codebook_id} has {len(book.anchors)}. Use the codebook that the codes "
            "were assigned with"
        )
    return book
