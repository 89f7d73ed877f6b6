"""Order and cut each user's events. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import compiled

#: Bits per pass of the radix sort.
_BITS = 11
#: Length of the runs that are sorted by insertion before they are merged.
_RUN = 16


@compiled
def group(user):  # type: ignore[no-untyped-def]
    """Rows by user (radix sort, stable): users ascending, bounds of their rows, rows in order.

    Args:
        user: int64[n], at least one.

    Returns:
        int64[users], int64[users + 1], int64[n].
    """
    n = len(user)
    low, high = user.min(), user.max()
    order = np.arange(n)
    spare = np.empty(n, np.int64)
    mask = (1 << _BITS) - 1
    shift = 0
    while shift < 63 and (high - low) >> shift > 0:
        start = np.zeros(mask + 2, np.int64)
        for x in range(n):
            start[(((user[x] - low) >> shift) & mask) + 1] += 1
        for digit in range(mask + 1):
            start[digit + 1] += start[digit]
        for x in range(n):
            row = order[x]
            digit = ((user[row] - low) >> shift) & mask
            spare[start[digit]] = row
            start[digit] += 1
        order, spare = spare, order
        shift += _BITS
    users = 1
    for x in range(1, n):
        users += user[order[x]] != user[order[x - 1]]
    found = np.empty(users, np.int64)
    bounds = np.empty(users + 1, np.int64)
    users = 0
    for x in range(n):
        if x == 0 or user[order[x]] != user[order[x - 1]]:
            found[users] = user[order[x]]
            bounds[users] = x
            users += 1
    bounds[users] = n
    return found, bounds, order


@compiled
def gather(indptr, groups):  # type: ignore[no-untyped-def]
    """The rows of ``groups`` (int64[g]), one group after the other: int64[...]."""
    total = 0
    for g in groups:
        total += indptr[g + 1] - indptr[g]
    rows = np.empty(total, np.int64)
    place = 0
    for g in groups:
        for row in range(indptr[g], indptr[g + 1]):
            rows[place] = row
            place += 1
    return rows


@compiled
def _before(a, b, first, second, third, fourth):  # type: ignore[no-untyped-def]
    """Whether row a comes before row b: first, second ascending, third, fourth descending."""
    if first[a] != first[b]:
        return first[a] < first[b]
    if second[a] != second[b]:
        return second[a] < second[b]
    if third[a] != third[b]:
        return third[a] > third[b]
    return fourth[a] > fourth[b]


@compiled
def _sort(order, spare, first, second, third, fourth):  # type: ignore[no-untyped-def]
    """Sort ``order`` (rows) in place: insertion in runs, then merges."""
    n = len(order)
    for begin in range(0, n, _RUN):
        for x in range(begin + 1, min(begin + _RUN, n)):
            row = order[x]
            y = x - 1
            while y >= begin and _before(row, order[y], first, second, third, fourth):
                order[y + 1] = order[y]
                y -= 1
            order[y + 1] = row
    width = _RUN
    while width < n:
        for begin in range(0, n, 2 * width):
            middle = min(begin + width, n)
            end = min(begin + 2 * width, n)
            a, b = begin, middle
            for x in range(begin, end):
                if a < middle and (
                    b >= end or not _before(order[b], order[a], first, second, third, fourth)
                ):
                    spare[x] = order[a]
                    a += 1
                else:
                    spare[x] = order[b]
                    b += 1
        order[:] = spare[:n]
        width *= 2


@compiled
def latest(indptr, seq, ts, item, weight, most):  # type: ignore[no-untyped-def]
    """The last ``most`` events of each user in the order (seq, ts, -item, -weight).

    Args:
        indptr: int64[users + 1], bounds of each user's events, in any order.
        seq, ts, item: int64[events]; weight: float64[events].
        most: maximum number of events kept.

    Returns:
        int64[users + 1], bounds of the kept events, and int64[...], their rows, in order.
    """
    users = len(indptr) - 1
    longest = 0
    total = 0
    for u in range(users):
        n = indptr[u + 1] - indptr[u]
        longest = max(longest, n)
        total += min(n, most)
    order = np.empty(longest, np.int64)
    spare = np.empty(longest, np.int64)
    bounds = np.zeros(users + 1, np.int64)
    rows = np.empty(total, np.int64)
    for u in range(users):
        n = indptr[u + 1] - indptr[u]
        for x in range(n):
            order[x] = indptr[u] + x
        _sort(order[:n], spare, seq, ts, item, weight)
        kept = min(n, most)
        rows[bounds[u] : bounds[u] + kept] = order[n - kept : n]
        bounds[u + 1] = bounds[u] + kept
    return bounds, rows


@compiled
def distinct(indptr, item, ts, weight, events, least, most, drop):  # type: ignore[no-untyped-def]
    """Each user's distinct items, ascending, cut to the floor and the cap.

    Args:
        indptr: int64[users + 1], bounds of each user's events, in any order.
        item, ts, events: int64[n]; weight: float64[n]. ``events``: number of events behind a row.
        least: users with fewer items get an empty list.
        most: maximum number of items kept, those with the latest ts (ties: the smaller item).
        drop: users with more than ``most`` items get an empty list instead.

    Returns:
        int64[users + 1] bounds; for each entry its item, latest ts, sum of weights (added from the
        latest on) and events; int64[users], the number of each user's items before the cut.
    """
    users = len(indptr) - 1
    longest = 0
    for u in range(users):
        longest = max(longest, indptr[u + 1] - indptr[u])
    order = np.empty(longest, np.int64)
    spare = np.empty(longest, np.int64)
    bounds = np.zeros(users + 1, np.int64)
    out_item = np.empty(len(item), np.int64)
    out_ts = np.empty(len(item), np.int64)
    out_weight = np.empty(len(item), np.float64)
    out_events = np.empty(len(item), np.int64)
    before = np.empty(users, np.int64)
    negative = -ts
    place = 0
    for u in range(users):
        n = indptr[u + 1] - indptr[u]
        for x in range(n):
            order[x] = indptr[u] + x
        # By item; its events from the latest on, the heavier first among equals.
        _sort(order[:n], spare, item, negative, weight, weight)
        start = place
        for x in range(n):
            row = order[x]
            if place == start or out_item[place - 1] != item[row]:
                out_item[place] = item[row]
                out_ts[place] = ts[row]
                out_weight[place] = weight[row]
                out_events[place] = events[row]
                place += 1
            else:
                out_weight[place - 1] += weight[row]
                out_events[place - 1] += events[row]
        found = place - start
        before[u] = found
        if found < least or (drop and found > most):
            place = start
        elif found > most:
            for x in range(found):
                order[x] = start + x
            # The latest at the end; of equal times the smaller item.
            _sort(order[:found], spare, out_ts, out_ts, out_item, out_weight)
            kept = np.sort(order[found - most : found])
            for x in range(most):
                source = kept[x]
                out_item[start + x] = out_item[source]
                out_ts[start + x] = out_ts[source]
                out_weight[start + x] = out_weight[source]
                out_events[start + x] = out_events[source]
            place = start + most
        bounds[u + 1] = place
    return (
        bounds,
        out_item[:place],
        out_ts[:place],
        out_weight[:place],
        out_events[:place],
        before,
    )


@compiled
def sum_by_item(words, near):  # type: ignore[no-untyped-def]
    """Sums over the entries of each item, added in the order of the entries.

    Args:
        words: int64[n, 3], records of at least one entry.
        near: int64[n], of each entry.

    Returns:
        items int64[m], ascending; entries, marks and near int64[m], weight float64[m].
    """
    n = len(words)
    weight = words[:, 2].copy().view(np.float64)
    largest = 0
    for e in range(n):
        largest = max(largest, words[e, 0] & 0xFFFFFFFF)
    dense = largest < 16 * n + 1024
    if dense:
        item = words[:, 0] & 0xFFFFFFFF
        code = np.zeros(largest + 1, np.int64)
        for e in range(n):
            code[item[e]] = 1
        items = np.flatnonzero(code)
        for c in range(len(items)):
            code[items[c]] = c
    else:
        item = words[:, 0] & 0xFFFFFFFF
        items = np.unique(item)
        item = np.searchsorted(items, item)
        code = np.arange(len(items))
    entries = np.zeros(len(items), np.int64)
    marks = np.zeros(len(items), np.int64)
    nears = np.zeros(len(items), np.int64)
    sums = np.zeros(len(items), np.float64)
    for e in range(n):
        c = code[item[e]]
        entries[c] += 1
        marks[c] += words[e, 0] >> 32
        nears[c] += near[e]
        sums[c] += weight[e]
    return items, entries, marks, nears, sums
