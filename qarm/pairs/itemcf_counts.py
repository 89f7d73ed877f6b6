"""A block whose co-occurrences all count the same, laid out for ``itemcf_kernel.score_counts``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qarm.kernels.compiled import compiled

if TYPE_CHECKING:
    from qarm.kernels.cooccurrence import Lists


class Counted(NamedTuple):
    """A block's lists and triggers, items by their place: 0 for the one with the most entries.

    What is only an index is unsigned, which spares kernels the look at negative ones.
    """

    trigger: np.ndarray
    """int64[t], codes of the block's triggers, ascending."""
    trigger_indptr: np.ndarray
    """uint64[t + 1], bounds in ``trigger_entry``."""
    trigger_entry: np.ndarray
    """uint64[...], entries of each trigger."""
    trigger_user: np.ndarray
    """uint64[...], rows of their users."""
    indptr: np.ndarray
    """uint64[users + 1], bounds of each user's entries."""
    place: np.ndarray
    """uint32[e], of the entry's item."""
    ts: np.ndarray
    """int64[e], microseconds."""
    code: np.ndarray
    """int64[codes], the code of each place."""
    place_of: np.ndarray
    """uint32[codes], the place of each code."""
    degree: np.ndarray
    """float64[codes], W of each place."""
    inverse_root: np.ndarray
    """float64[codes], 1 / sqrt(W)."""
    likeness: np.ndarray
    """float32[codes], ``inverse_root`` over the largest of them."""
    alike: int
    """Steps that each co-occurrence counts."""
    repeats: bool
    """Whether a list may have an item twice."""


def count_lists(lists: Lists, alike: int, repeats: bool) -> Counted:
    """``lists`` as ``score_counts`` takes them; see ``Counted``."""
    codes = len(lists.degree)
    code = np.argsort(-np.bincount(lists.code, minlength=codes), kind="stable")
    place_of = np.empty(codes, np.uint32)
    place_of[code] = np.arange(codes)
    inverse_root = lists.inverse_root[code]
    return Counted(
        lists.trigger,
        lists.trigger_indptr.view(np.uint64),
        lists.trigger_entry.view(np.uint64),
        lists.trigger_user.view(np.uint64),
        lists.indptr.view(np.uint64),
        place_of[lists.code],
        lists.ts,
        code,
        place_of,
        lists.degree[code],
        inverse_root,
        (inverse_root / (inverse_root.max() or 1.0)).astype(np.float32),
        alike,
        repeats,
    )


@compiled
def has_repeats(indptr, code, codes):  # type: ignore[no-untyped-def]
    """Whether some user's list has an item twice.

    Args:
        indptr: int64[users + 1]; code: int32[e]; codes: how many.
    """
    last = np.full(codes, -1, np.int64)
    for user in range(len(indptr) - 1):
        for e in range(indptr[user], indptr[user + 1]):
            if last[code[e]] == user:
                return True
            last[code[e]] = user
    return False
