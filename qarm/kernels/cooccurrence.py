"""Windowed co-occurrence of one block of triggers, row by row of the sparse product."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qarm.kernels.compiled import compiled

#: Slots of ``tally``.
SCORED, BELOW_MIN_SUPPORT, BEYOND_TOP_K = range(3)
#: ``Rules.window_micros`` without a limit in time.
FOREVER = 2**63 - 1
_NEVER = -(2**63)
#: Columns of a trigger's sums, side by side so that one partner touches one cache line.
TOTAL, SUPPORT, LAST_USER, LATEST = range(4)


class Lists(NamedTuple):
    """Users' lists of one block, and the block's triggers."""

    trigger: NDArray[Any]
    """int64[t], codes of the block's triggers, ascending."""
    trigger_indptr: NDArray[Any]
    """int64[t + 1], bounds in ``trigger_entry``."""
    trigger_entry: NDArray[Any]
    """int64[...], entries of each trigger."""
    trigger_user: NDArray[Any]
    """int64[...], rows of their users."""
    indptr: NDArray[Any]
    """int64[users + 1], bounds of each user's entries, ascending in position."""
    place: NDArray[Any]
    """int32[e], place of the entry's item: 0 for the item with the most entries, so that most of
    what a trigger meets lies in the nearest cache."""
    position: NDArray[Any]
    """int32[e], position of the event in its user's order."""
    ts: NDArray[Any]
    """int64[e], microseconds."""
    weight: NDArray[Any]
    """float64[e]"""
    code: NDArray[Any]
    """int64[codes], code of the item at each place; codes ascend with the item."""
    place_of: NDArray[Any]
    """int64[codes], place of each code."""
    inverse_root: NDArray[Any]
    """float64[codes], 1 / sqrt(W) of the item at each place, W the sum of its event weights."""


class Rules(NamedTuple):
    """What is counted, and which pairs are kept."""

    recency: NDArray[Any]
    """float64[window], factor of events 1, 2, ... apart; its length is the window. Empty: all
    events of a user co-occur, with factor 1."""
    window_micros: int
    """Largest time between two events that co-occur, in microseconds."""
    scale: float
    """Integer units per unit of c; a power of two."""
    min_support: int
    top_k: int


@compiled
def _reach(lists, window, entry, user):  # type: ignore[no-untyped-def]
    """Bounds of the entries of ``user``'s list that may co-occur with ``entry``."""
    indptr, position = lists.indptr, lists.position
    low, high = indptr[user], indptr[user + 1]
    if window == 0:
        return low, high
    first, last = entry, entry + 1
    while first > low and position[entry] - position[first - 1] <= window:
        first -= 1
    while last < high and position[last] - position[entry] <= window:
        last += 1
    return first, last


@compiled
def _clear(acc, p):  # type: ignore[no-untyped-def]
    acc[p, TOTAL] = 0
    acc[p, SUPPORT] = 0
    acc[p, LAST_USER] = -1
    acc[p, LATEST] = _NEVER


@compiled
def _add(acc, p, user, units, ts):  # type: ignore[no-untyped-def]
    """Add one co-occurrence to place ``p``, without a branch."""
    acc[p, TOTAL] += units
    acc[p, SUPPORT] += acc[p, LAST_USER] != user
    acc[p, LAST_USER] = user
    acc[p, LATEST] = max(acc[p, LATEST], ts)


@compiled
def _count(t, lists, rules, acc, touched):  # type: ignore[no-untyped-def]
    """Add up the co-occurrences of trigger ``t``; returns the number of places touched."""
    place, position, ts, weight = lists.place, lists.position, lists.ts, lists.weight
    window, timed = len(rules.recency), rules.window_micros < FOREVER
    seen = 0
    for x in range(lists.trigger_indptr[t], lists.trigger_indptr[t + 1]):
        e, user = lists.trigger_entry[x], lists.trigger_user[x]
        first, last = _reach(lists, window, e, user)
        scaled, own = weight[e] * rules.scale, ts[e]
        if window == 0 and not timed:
            for other in range(first, last):
                p = place[other]
                touched[seen] = p
                seen += acc[p, SUPPORT] == 0
                units = np.int64(math.floor(scaled * weight[other] + 0.5))
                _add(acc, p, user, units, max(own, ts[other]))
            continue
        for other in range(first, last):
            if timed and abs(ts[other] - own) > rules.window_micros:
                continue
            p = place[other]
            term = scaled * weight[other]
            if window:
                term *= rules.recency[max(abs(position[other] - position[e]) - 1, 0)]
            touched[seen] = p
            seen += acc[p, SUPPORT] == 0
            units = np.int64(math.floor(term + 0.5))
            _add(acc, p, user, units, max(own, ts[other]))
    return seen


@compiled
def _score(mine, touched, lists, rules, acc, code, score):  # type: ignore[no-untyped-def]
    """Codes and cosines of the partners with enough support.

    Args:
        mine: place of the trigger.
        touched: int64[seen], places that the trigger touched, itself included.
        lists, rules, acc: as in ``score_itemcf``.
        code, score: int64[codes] and float64[codes], filled.

    Returns:
        the number of partners, and of those with enough support.
    """
    partners, enough = 0, 0
    unit = 1.0 / rules.scale  # a power of two: exact
    root = lists.inverse_root[mine]
    for p in touched:
        if p == mine:
            continue
        partners += 1
        if acc[p, SUPPORT] < rules.min_support:
            continue
        # A square root and a division for each pair would cost more than the count did.
        score[enough] = (acc[p, TOTAL] * unit) * (root * lists.inverse_root[p])
        code[enough] = lists.code[p]
        enough += 1
    return partners, enough


@compiled
def _select(score, code, k):  # type: ignore[no-untyped-def]
    """Quickselect in place: the ``k`` best first, in no order, the worst of them at k - 1.

    Best: the higher score, then the smaller code.
    """
    low, high = 0, len(score) - 1
    while low < high:
        middle = (low + high) // 2
        pivot, tie = score[middle], code[middle]
        i, j = low, high
        while i <= j:
            while score[i] > pivot or (score[i] == pivot and code[i] < tie):
                i += 1
            while score[j] < pivot or (score[j] == pivot and code[j] > tie):
                j -= 1
            if i <= j:
                score[i], score[j] = score[j], score[i]
                code[i], code[j] = code[j], code[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@compiled
def _keep_top(score, code, k):  # type: ignore[no-untyped-def]
    """Move the ``k`` best to the front; only what beats the worst of them so far is buffered."""
    filled, size = 0, 4 * k
    worst, tie = -np.inf, np.int64(0)
    for y in range(len(score)):
        if score[y] > worst or (score[y] == worst and code[y] < tie):
            score[filled], code[filled] = score[y], code[y]
            filled += 1
            if filled == size:
                _select(score[:filled], code[:filled], k)
                filled, worst, tie = k, score[k - 1], code[k - 1]
    _select(score[:filled], code[:filled], k)


@compiled
def score_itemcf(lists, rules, first, capacity, tally):  # type: ignore[no-untyped-def]
    """s(i,j) = c(i,j) / sqrt(W_i W_j), c(i,j) = sum over events a of i and b of j of one user,
    ``gap`` apart, of r^(gap-1) w_a w_b.

    Terms are added as integers (multiples of 1/scale): the sum does not depend on the order, so
    c(i,j) = c(j,i) to the last bit, and partial sums of different users add up exactly.

    Args:
        lists: see ``Lists``.
        rules: see ``Rules``.
        first: trigger to start with.
        capacity: output rows that fit in this call; at least the number of codes.
        tally: int64[3], co-occurring pairs and dropped pairs by reason; added to.

    Returns:
        next trigger (the number of triggers: done) and the rows: trigger and target codes, score,
        support (distinct users), c in units of 1/scale, ts.
    """
    codes = len(lists.code)
    acc = np.empty((codes, 4), np.int64)
    for p in range(codes):
        _clear(acc, p)
    touched = np.empty(codes + 1, np.int64)  # one more: written before it is known to be new
    code = np.empty(codes, np.int64)
    score = np.empty(codes, np.float64)

    out_trigger = np.empty(capacity, np.int64)
    out_target = np.empty(capacity, np.int64)
    out_score = np.empty(capacity, np.float64)
    out_support = np.empty(capacity, np.int64)
    out_total = np.empty(capacity, np.int64)
    out_ts = np.empty(capacity, np.int64)
    filled = 0
    t = first
    while t < len(lists.trigger) and filled + min(codes, rules.top_k) <= capacity:
        mine = lists.place_of[lists.trigger[t]]
        seen = _count(t, lists, rules, acc, touched)
        partners, enough = _score(mine, touched[:seen], lists, rules, acc, code, score)
        kept = min(enough, rules.top_k)
        if enough > kept:
            _keep_top(score[:enough], code[:enough], kept)
        for y in range(kept):
            p = lists.place_of[code[y]]
            out_trigger[filled] = lists.trigger[t]
            out_target[filled] = code[y]
            out_score[filled] = score[y]
            out_support[filled] = acc[p, SUPPORT]
            out_total[filled] = acc[p, TOTAL]
            out_ts[filled] = acc[p, LATEST]
            filled += 1
        tally[SCORED] += partners
        tally[BELOW_MIN_SUPPORT] += partners - enough
        tally[BEYOND_TOP_K] += enough - kept
        for y in range(seen):
            _clear(acc, touched[y])
        t += 1
    return (
        t,
        out_trigger[:filled],
        out_target[:filled],
        out_score[:filled],
        out_support[:filled],
        out_total[:filled],
        out_ts[:filled],
    )
