"""Which part of each user's list each block of items needs. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np

from qarm.pairs.compiled import compiled


@compiled
def slice_lists(indptr, block, reach):  # type: ignore[no-untyped-def]
    """Cut users' lists into what each block needs: its own entries and all within ``reach``.

    A user's list goes once to every block that it has an entry in: the union of
    [p - reach, p + reach] over the positions p of the block's entries.

    Args:
        indptr: int64[users + 1], bounds of each user's entries, which are in the user's order.
        block: int64[entries], the block that scores the entry's item; -1: nobody does.
        reach: neighbours on either side; at least the list's length: whole lists.

    Returns:
        slice_user int64[s], slice_block int64[s], slice_indptr int64[s + 1] and
        entry int64[slice_indptr[-1]], the entries of each slice in the user's order.
    """
    users = len(indptr) - 1
    slices = 0
    entries = 0
    for fill in (False, True):
        slice_user = np.empty(slices if fill else 0, np.int64)
        slice_block = np.empty(slices if fill else 0, np.int64)
        slice_indptr = np.zeros(slices + 1 if fill else 1, np.int64)
        entry = np.empty(entries if fill else 0, np.int64)
        slices = 0
        entries = 0
        for user in range(users):
            start, stop = indptr[user], indptr[user + 1]
            order = np.argsort(block[start:stop], kind="mergesort")
            current = -1
            reached = start  # entries before this one are in the slice already
            for k in order:
                at = start + k
                if block[at] < 0:
                    continue
                if block[at] != current:
                    current = block[at]
                    reached = start
                    if fill:
                        slice_user[slices] = user
                        slice_block[slices] = current
                        slice_indptr[slices + 1] = entries
                    slices += 1
                first = max(reached, at - reach)
                last = min(stop, at + reach + 1)
                if fill:
                    for x in range(first, last):
                        entry[entries + x - first] = x
                entries += max(last - first, 0)
                reached = max(reached, last)
                if fill:
                    slice_indptr[slices] = entries
    return slice_user, slice_block, slice_indptr, entry
