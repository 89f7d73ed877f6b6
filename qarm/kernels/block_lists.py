"""Which part of each user's list each block of items needs, and a block's index of its triggers.

Arrays in, arrays out. A record is three int64 words: item and mark, ts, weight (``lists.RECORD``).
Records that are shipped to a block have the mark ``position | SAMPLED | OWN``.
"""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import compiled

#: Bits of a shipped mark; the lower bits are the position in the user's list.
OWN = 1 << 30
SAMPLED = 1 << 29
_LOW = (1 << 32) - 1


@compiled
def choose_blocks(  # type: ignore[no-untyped-def]
    indptr, words, user_hash, hot_item, hot_threshold, wanted, left_out, user_block, blocks
):
    """Which block scores each entry's item, and whether the user counts for the item.

    Args:
        indptr: int64[users + 1], bounds of each user's entries.
        words: int64[entries, 3]
        user_hash: int64[users], compared with the thresholds.
        hot_item, hot_threshold: int64[h], ascending items, and the largest hash that each keeps.
        wanted: int64[w], ascending: the items to score; empty: all.
        left_out: int64[l], ascending: the items not to score.
        user_block: int64[users], the block of all items of a user; empty: by item.
        blocks: number of blocks; by item, the block is item modulo this.

    Returns:
        block int64[entries], -1 where the user does not count or the item is not wanted;
        sampled bool[entries].
    """
    block = np.empty(len(words), np.int64)
    sampled = np.ones(len(words), np.bool_)
    for u in range(len(indptr) - 1):
        for e in range(indptr[u], indptr[u + 1]):
            item = words[e, 0] & 0xFFFFFFFF
            block[e] = user_block[u] if len(user_block) else item % blocks
            if len(hot_item):
                at = np.searchsorted(hot_item, item)
                if at < len(hot_item) and hot_item[at] == item:
                    sampled[e] = user_hash[u] <= hot_threshold[at]
                    if not sampled[e]:
                        block[e] = -1
            if len(wanted) and block[e] >= 0:
                at = np.searchsorted(wanted, item)
                if at == len(wanted) or wanted[at] != item:
                    block[e] = -1
            if len(left_out) and block[e] >= 0:
                at = np.searchsorted(left_out, item)
                if at < len(left_out) and left_out[at] == item:
                    block[e] = -1
    return block, sampled


@compiled
def cut_to_blocks(indptr, words, block, sampled, reach, blocks):  # type: ignore[no-untyped-def]
    """Cut users' lists into what each block needs: its own entries and all within ``reach``.

    A user's list is shipped once to every block that has an entry in it: the union of
    [p - reach, p + reach] over the positions p of the block's entries.

    Args:
        indptr: int64[users + 1], bounds of each user's entries, in the user's order.
        words: int64[entries, 3]
        block: int64[entries], the block that scores the entry's item; -1: none.
        sampled: bool[entries]
        reach: neighbours on either side; at least the length of a list: the whole list.
        blocks: number of blocks.

    Returns:
        first slice of each block int64[blocks + 1], user row of each slice int64[s], its length
        int64[s], and the words of all slices int64[n, 3], in the order of blocks, then users.
    """
    users = len(indptr) - 1
    slice_at = np.zeros(blocks + 1, np.int64)
    entry_at = np.zeros(blocks + 1, np.int64)
    slice_user = np.empty(0, np.int64)
    slice_length = np.empty(0, np.int64)
    out = np.empty((0, 3), np.int64)
    for fill in (False, True):
        if fill:  # counts become offsets
            for b in range(blocks):
                slice_at[b + 1] += slice_at[b]
                entry_at[b + 1] += entry_at[b]
            slice_user = np.empty(slice_at[blocks], np.int64)
            slice_length = np.zeros(slice_at[blocks], np.int64)
            out = np.empty((entry_at[blocks], 3), np.int64)
        slices = slice_at[:blocks].copy()
        entries = entry_at[:blocks].copy()
        seen = np.full(blocks, -1, np.int64)
        reached = np.zeros(blocks, np.int64)
        for u in range(users):
            start, stop = indptr[u], indptr[u + 1]
            whole = reach >= stop - start
            for at in range(start, stop):
                b = block[at]
                if b < 0:
                    continue
                if seen[b] != u:
                    seen[b] = u
                    reached[b] = start
                    if fill:
                        slice_user[slices[b]] = u
                        slices[b] += 1
                    else:
                        slice_at[b + 1] += 1
                elif whole:
                    continue
                first = start if whole else max(reached[b], at - reach)
                last = stop if whole else min(stop, at + reach + 1)
                if last <= first:
                    continue
                reached[b] = last
                if not fill:
                    entry_at[b + 1] += last - first
                    continue
                slice_length[slices[b] - 1] += last - first
                into = entries[b]
                for x in range(first, last):
                    mark = x - start
                    if sampled[x]:
                        mark |= SAMPLED
                    if block[x] == b:
                        mark |= OWN
                    out[into, 0] = (words[x, 0] & 0xFFFFFFFF) | (mark << 32)
                    out[into, 1] = words[x, 1]
                    out[into, 2] = words[x, 2]
                    into += 1
                entries[b] = into
    return slice_at, slice_user, slice_length, out


@compiled
def code_items(words, largest):  # type: ignore[no-untyped-def]
    """Dense codes of the items of ``words``, ascending with the item.

    Args:
        words: int64[n, 3]
        largest: the largest item.

    Returns:
        items int64[codes], the item of each code; code int32[n].
    """
    place = np.zeros(largest + 1, np.int32)
    for e in range(len(words)):
        place[words[e, 0] & 0xFFFFFFFF] = 1
    codes = 0
    for item in range(largest + 1):
        if place[item]:
            codes += 1
    items = np.empty(codes, np.int64)
    codes = 0
    for item in range(largest + 1):
        if place[item]:
            items[codes] = item
            place[item] = codes
            codes += 1
    code = np.empty(len(words), np.int32)
    for e in range(len(words)):
        code[e] = place[words[e, 0] & 0xFFFFFFFF]
    return items, code


@compiled
def index_triggers(indptr, words, code, codes, user_order):  # type: ignore[no-untyped-def]
    """The entries that are a block's own, by item.

    Args:
        indptr: int64[users + 1], bounds of each user's entries.
        words: int64[n, 3], with shipped marks.
        code: int32[n]; codes: number of codes.
        user_order: int64[users], the rows of the users in the wanted order.

    Returns:
        trigger int64[t], codes ascending; bounds int64[t + 1]; entry int64[m] and user int64[m],
        the entries of each trigger in the order of users, and their users' rows.
    """
    count = np.zeros(codes + 1, np.int64)
    for e in range(len(words)):
        if (words[e, 0] >> 32) & OWN:
            count[code[e] + 1] += 1
    triggers = 0
    for c in range(codes):
        if count[c + 1]:
            triggers += 1
        count[c + 1] += count[c]
    trigger = np.empty(triggers, np.int64)
    bounds = np.zeros(triggers + 1, np.int64)
    triggers = 0
    for c in range(codes):
        if count[c + 1] > count[c]:
            trigger[triggers] = c
            bounds[triggers + 1] = count[c + 1]
            triggers += 1
    fill = count[:codes].copy()
    entry = np.empty(count[codes], np.int64)
    user = np.empty(count[codes], np.int64)
    for u in user_order:
        for e in range(indptr[u], indptr[u + 1]):
            if (words[e, 0] >> 32) & OWN:
                entry[fill[code[e]]] = e
                user[fill[code[e]]] = u
                fill[code[e]] += 1
    return trigger, bounds, entry, user


@compiled
def _mix(value):  # type: ignore[no-untyped-def]
    """A bijection of 64-bit integers that mixes all bits (finaliser of SplitMix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def hash_lists(indptr, words, sampled, user):  # type: ignore[no-untyped-def]
    """A hash of each user with its whole list, at each of its entries.

    Args:
        indptr: int64[users + 1], bounds of each user's entries.
        words: int64[n, 3]; sampled: bool[n], part of the hash; user: int64[users].

    Returns:
        int64[n]
    """
    out = np.empty(len(words), np.int64)
    for u in range(len(indptr) - 1):
        value = _mix(np.uint64(user[u]))
        for e in range(indptr[u], indptr[u + 1]):
            for w in range(3):
                value = _mix(value ^ np.uint64(words[e, w])) + np.uint64(0x9E3779B97F4A7C15)
            value = _mix(value ^ np.uint64(sampled[e]))
        for e in range(indptr[u], indptr[u + 1]):
            out[e] = np.int64(value)
    return out
