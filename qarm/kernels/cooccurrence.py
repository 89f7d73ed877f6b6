"""Windowed co-occurrence of one block of triggers, row by row of the sparse product.

How counts become scores: c is the count of a pair, W the (decayed) sum of an item's event weights,
i the trigger, j the target, N the sum of W over all items and m its mean:

========  ==============================================================================
none      c
cosine    c / sqrt(W_i W_j)
jaccard   c / (W_i + W_j - c): the union is never smaller than the larger of both
lift      c N / (W_i W_j): how much more often together than by chance
tfidf     (c / W_i) ln(1 + N / W_j)
bm25      ln(1 + N / W_j) c (k1 + 1) / (c + k1 (1 - b + b W_i / m)), Robertson and Zaragoza
          (2009): the trigger is the document, its partners are the words
========  ==============================================================================

The first four are symmetric; tfidf and bm25 hold back popular targets, not popular triggers. All
need the counts and one number an item only, so that they can be applied to counts that were added
up from partial ones. Where users are counted, c takes of each user the largest term, and W the
largest event.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from qarm.kernels.compiled import compiled

#: Normalisations by name; their place is the kernel's number for them.
NORMALIZATIONS = ("none", "cosine", "jaccard", "lift", "tfidf", "bm25")
#: Slots of ``tally``.
SCORED, BELOW_MIN_SUPPORT, BEYOND_TOP_K = range(3)
#: ``Rules.window_micros`` without a limit in time.
_FOREVER = 2**63 - 1
_NEVER = -(2**63)
#: Buckets of cosines from 2^-32 to 2^32, and the bits of the lowest one's floats, shifted.
_BUCKETS = 512
_LOWEST_BUCKET = (127 - 32) << 3
#: Columns of a trigger's sums, side by side so that one partner costs one line of cache.
TOTAL, SUPPORT, LAST_USER, LATEST = range(4)


class Lists(NamedTuple):
    """A block's lists and triggers."""

    trigger: np.ndarray
    """int64[t], codes of the block's triggers, ascending."""
    trigger_indptr: np.ndarray
    """int64[t + 1], bounds in ``trigger_entry``."""
    trigger_entry: np.ndarray
    """int64[...], entries of each trigger."""
    trigger_user: np.ndarray
    """int64[...], rows of their users."""
    indptr: np.ndarray
    """int64[users + 1], bounds of each user's entries, ascending in position."""
    code: np.ndarray
    """int32[e], dense code of the entry's item, ascending with the item."""
    position: np.ndarray
    """int32[e], place of the event in its user's order."""
    ts: np.ndarray
    """int64[e], microseconds."""
    weight: np.ndarray
    """float64[e]"""
    decay: np.ndarray
    """float64[e], of the event's day; empty: none."""
    degree: np.ndarray
    """float64[codes], W of each item."""
    inverse_root: np.ndarray
    """float64[codes], 1 / sqrt(W)."""


class Rules(NamedTuple):
    """What is counted, and how."""

    recency: np.ndarray
    """float64[window], factor of events 1, 2, ... apart; its length is the window. Empty: all
    events of a user meet, at factor 1."""
    window_micros: int
    """Farthest two events may be apart in time."""
    scale: float
    """Steps of one unit of c."""
    kind: int
    """Place in ``NORMALIZATIONS``."""
    totals: np.ndarray
    """float64[4]: total weight, mean weight, k1, b; see ``normalised``."""
    min_support: int
    top_k: int
    once_a_user: bool = False
    """Whether of each user's terms of a pair the largest alone counts."""


@compiled
def normalised(kind, c, trigger_weight, target_weight, total_weight, mean_weight, k1, b):  # type: ignore[no-untyped-def]
    """Score of one pair.

    Args:
        kind: int64, place in ``NORMALIZATIONS``.
        c: float64, the count.
        trigger_weight, target_weight: float64, W_i and W_j.
        total_weight, mean_weight: float64, N and m.
        k1, b: float64, of bm25.
    """
    if kind > 0 and (trigger_weight <= 0.0 or target_weight <= 0.0):
        return 0.0
    if kind == 1:
        return c / math.sqrt(trigger_weight * target_weight)
    if kind == 2:
        # Events of a user meet several others, so c can exceed both weights.
        larger = max(trigger_weight, target_weight)
        return c / max(trigger_weight + target_weight - c, larger)
    if kind == 3:
        return c * total_weight / (trigger_weight * target_weight)
    if kind == 4:
        return c / trigger_weight * math.log1p(total_weight / target_weight)
    if kind == 5:
        length = 1.0 - b + b * trigger_weight / mean_weight
        return math.log1p(total_weight / target_weight) * c * (k1 + 1.0) / (c + k1 * length)
    return c


@compiled
def normalise_all(kind, c, trigger_weight, target_weight, totals):  # type: ignore[no-untyped-def]
    """``normalised`` of float64[n] pairs; totals: (N, m, k1, b)."""
    scores = np.empty(len(c), np.float64)
    for x in range(len(c)):
        scores[x] = normalised(
            kind,
            c[x],
            trigger_weight[x],
            target_weight[x],
            totals[0],
            totals[1],
            totals[2],
            totals[3],
        )
    return scores


@compiled
def _reach(lists, window, entry, user):  # type: ignore[no-untyped-def]
    """Bounds of the entries of ``user``'s list that may meet ``entry``."""
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
def _clear(acc, c):  # type: ignore[no-untyped-def]
    acc[c, TOTAL] = 0
    acc[c, SUPPORT] = 0
    acc[c, LAST_USER] = -1
    acc[c, LATEST] = _NEVER


@compiled
def _add(acc, c, user, units, ts):  # type: ignore[no-untyped-def]
    """One co-occurrence onto code ``c``, without a branch."""
    acc[c, TOTAL] += units
    acc[c, SUPPORT] += acc[c, LAST_USER] != user
    acc[c, LAST_USER] = user
    acc[c, LATEST] = max(acc[c, LATEST], ts)


@compiled
def _add_once(acc, best, c, user, units, ts):  # type: ignore[no-untyped-def]
    """``_add``, but in all no more than the largest ``units`` of the user.

    ``best`` int64[codes] holds it; a trigger's entries come user by user.
    """
    if acc[c, LAST_USER] != user:
        best[c] = 0
    more = max(units - best[c], 0)
    best[c] += more
    _add(acc, c, user, more, ts)


@compiled
def _meet(t, lists, rules, acc, best, touched):  # type: ignore[no-untyped-def]
    """Add up what trigger ``t`` meets, itself too; how many codes were touched."""
    code, position, ts = lists.code, lists.position, lists.ts
    weight, decay = lists.weight, lists.decay
    window, timed, decays = len(rules.recency), rules.window_micros < _FOREVER, len(decay) > 0
    once = rules.once_a_user
    plain = window == 0 and not timed and not decays and not once
    seen = 0
    for x in range(lists.trigger_indptr[t], lists.trigger_indptr[t + 1]):
        e, user = lists.trigger_entry[x], lists.trigger_user[x]
        first, last = _reach(lists, window, e, user)
        scaled, own = weight[e] * rules.scale, ts[e]
        if plain:
            for other in range(first, last):
                c = code[other]
                touched[seen] = c
                seen += acc[c, SUPPORT] == 0
                units = np.int64(math.floor(scaled * weight[other] + 0.5))
                _add(acc, c, user, units, max(own, ts[other]))
            continue
        for other in range(first, last):
            if timed and abs(ts[other] - own) > rules.window_micros:
                continue
            c = code[other]
            term = scaled * weight[other]
            if window:
                term *= rules.recency[max(abs(position[other] - position[e]) - 1, 0)]
            if decays:
                term *= decay[max(e, other)]
            touched[seen] = c
            seen += acc[c, SUPPORT] == 0
            units = np.int64(math.floor(term + 0.5))
            if once:
                _add_once(acc, best, c, user, units, max(own, ts[other]))
            else:
                _add(acc, c, user, units, max(own, ts[other]))
    return seen


@compiled
def _score_all(mine, touched, lists, rules, acc, score):  # type: ignore[no-untyped-def]
    """Scores of the partners with enough support, which move to the front of ``touched``.

    Returns:
        how many partners there are, and how many of them have enough support.
    """
    partners, enough = 0, 0
    numbers = rules.totals
    unit = 1.0 / rules.scale  # a power of two: exact
    root, cosine = lists.inverse_root[mine], rules.kind == 1
    for y in range(len(touched)):
        c = touched[y]
        if c == mine:
            continue
        partners += 1
        if acc[c, SUPPORT] < rules.min_support:
            continue
        # The common case: a root and a division a pair cost more than the count did.
        if cosine:
            score[enough] = (acc[c, TOTAL] * unit) * (root * lists.inverse_root[c])
        else:
            score[enough] = normalised(
                rules.kind,
                acc[c, TOTAL] * unit,
                lists.degree[mine],
                lists.degree[c],
                numbers[0],
                numbers[1],
                numbers[2],
                numbers[3],
            )
        touched[y], touched[enough] = touched[enough], c
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
    """Move the ``k`` best to the front: a buffer there takes what beats the worst of them."""
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
    """c(i,j) = sum over events of i and j of one user, ``gap`` apart, of r^(gap-1) w_i w_j d,
    d the decay of the later event; with ``once_a_user`` the sum over users of the largest term.

    Terms are added as integers (multiples of 1/scale): the sum does not depend on the order, so
    that c(i,j) = c(j,i) to the last bit, and partial sums of different days add up exactly.

    Args:
        lists: see ``Lists``.
        rules: see ``Rules``.
        first: trigger to start with.
        capacity: output rows that fit in this call; at least the number of codes.
        tally: int64[3], co-occurring pairs and where they went; added to.

    Returns:
        next trigger (the number of triggers: done) and the rows: trigger and target codes, score,
        support (distinct users), c in steps of 1/scale, ts.
    """
    codes = len(lists.degree)
    acc = np.empty((codes, 4), np.int64)
    for c in range(codes):
        _clear(acc, c)
    best = np.empty(codes if rules.once_a_user else 0, np.int64)
    touched = np.empty(codes + 1, np.int64)  # one more: written before it is known to be new
    partner = np.empty(codes + 1, np.int64)
    score = np.empty(codes + 1, np.float64)

    out_trigger = np.empty(capacity, np.int64)
    out_target = np.empty(capacity, np.int64)
    out_score = np.empty(capacity, np.float64)
    out_support = np.empty(capacity, np.int64)
    out_total = np.empty(capacity, np.int64)
    out_ts = np.empty(capacity, np.int64)
    filled = 0
    t = first
    while t < len(lists.trigger) and filled + min(codes, rules.top_k) <= capacity:
        mine = lists.trigger[t]
        seen = _meet(t, lists, rules, acc, best, touched)
        partners, enough = _score_all(mine, touched[:seen], lists, rules, acc, score)
        partner[:enough] = touched[:enough]
        kept = min(enough, rules.top_k)
        if enough > kept:
            _keep_top(score[:enough], partner[:enough], kept)
        for y in range(kept):
            c = partner[y]
            out_trigger[filled] = mine
            out_target[filled] = c
            out_score[filled] = score[y]
            out_support[filled] = acc[c, SUPPORT]
            out_total[filled] = acc[c, TOTAL]
            out_ts[filled] = acc[c, LATEST]
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


@compiled
def _count(t, lists, acc, users_of, touched):  # type: ignore[no-untyped-def]
    """Count what trigger ``t`` meets, itself too; how many places were touched."""
    place, ts, indptr, trigger_user = lists.place, lists.ts, lists.indptr, lists.trigger_user
    first, last = lists.trigger_indptr[t], lists.trigger_indptr[t + 1]
    meets = 0
    for x in range(first, last):
        meets += indptr[trigger_user[x] + 1] - indptr[trigger_user[x]]
    everywhere = 2 * meets > len(acc)
    seen = 0
    for x in range(first, last):
        own, user = ts[lists.trigger_entry[x]], trigger_user[x]
        low, high = indptr[user], indptr[user + 1]
        for other in range(low, high if lists.repeats else low):
            p = place[other]
            users_of[p, 0] += users_of[p, 1] != user + 1
            users_of[p, 1] = user + 1
        if everywhere:
            for other in range(low, high):
                p = place[other]
                acc[p, 0] += 1
                acc[p, 1] = max(acc[p, 1], max(own, ts[other]))
        else:
            for other in range(low, high):
                p = place[other]
                touched[seen] = p
                seen += acc[p, 0] == 0
                acc[p, 0] += 1
                acc[p, 1] = max(acc[p, 1], max(own, ts[other]))
    if everywhere:  # many meet: cheaper to look for them at the end
        for p in range(len(acc)):
            touched[seen] = p
            seen += acc[p, 0] > 0
    return seen


@compiled
def _likely(mine, touched, lists, rules, acc, support, found, rough):  # type: ignore[no-untyped-def]
    """The places in ``touched`` that may be among the best, to the front of ``found``.

    Those with enough support; of cosines also only those that fewer than ``top_k`` exceed, as far
    as a sort into buckets tells, eight of them to each doubling. ``rough`` is room for the
    cosines, up to a factor that all of them share.

    Returns:
        how many there are, and how many partners have enough support.
    """
    least = max(rules.min_support, 1)
    buckets = np.zeros(_BUCKETS, np.int32)
    bits = rough.view(np.int32)
    enough = 0
    for p in touched:
        found[enough] = p
        rough[enough] = np.float32(acc[p, 0]) * lists.likeness[p]
        counts = p != mine and support[p] >= least
        # A float's exponent and three bits more; the very small and the very large share the ends.
        bucket = (bits[enough] >> 20) - _LOWEST_BUCKET
        buckets[min(max(bucket, 0), _BUCKETS - 1)] += counts
        enough += counts
    # A trigger without weight has the score 0 with all.
    if rules.kind != 1 or enough <= 4 * rules.top_k or lists.inverse_root[mine] == 0.0:
        return enough, enough
    bucket, above = _BUCKETS, 0
    while bucket > 0 and above < rules.top_k:
        bucket -= 1
        above += buckets[bucket]
    edge = np.empty(1, np.int32)
    edge[0] = (bucket + _LOWEST_BUCKET) << 20 if bucket else 0
    bound = edge.view(np.float32)[0] * np.float32(1 - 1e-6)  # rounding hides nothing
    likely = 0
    for y in range(enough):
        found[likely] = found[y]
        likely += rough[y] >= bound
    return likely, enough


@compiled
def _score_counts(mine, found, lists, rules, acc, partner, score):  # type: ignore[no-untyped-def]
    """Code and score of each of the places ``found``."""
    numbers = rules.totals
    root, unit = lists.inverse_root[mine], 1.0 / rules.scale
    for y in range(len(found)):
        p = found[y]
        total = (acc[p, 0] * lists.alike) * unit
        partner[y] = lists.code[p]
        if rules.kind == 1:
            score[y] = total * (root * lists.inverse_root[p])
        else:
            score[y] = normalised(
                rules.kind,
                total,
                lists.degree[mine],
                lists.degree[p],
                numbers[0],
                numbers[1],
                numbers[2],
                numbers[3],
            )


@compiled
def score_counts(lists, rules, first, capacity, tally):  # type: ignore[no-untyped-def]
    """``score_itemcf`` where every co-occurrence counts the same.

    An item has how often it was met and when last, and the items with the most entries come first,
    so that most of what a trigger meets lies in the nearest cache.

    Args:
        lists: see ``itemcf_counts.Counted``.
        rules, first, capacity, tally: see ``score_itemcf``; neither a window nor decay.

    Returns:
        see ``score_itemcf``.
    """
    codes = len(lists.degree)
    acc = np.zeros((codes, 2), np.int64)  # how often, and the latest ts, of each place
    acc[:, 1] = _NEVER
    # Distinct users of each place, and the last of them plus 1.
    users_of = np.zeros((codes if lists.repeats else 0, 2), np.int64)
    support = users_of[:, 0] if lists.repeats else acc[:, 0]
    touched = np.empty(codes + 1, np.uint32)  # one more: written before it is known to be new
    found = np.empty(codes + 1, np.uint32)
    rough = np.empty(codes + 1, np.float32)
    partner = np.empty(codes, np.int64)
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
        seen = _count(t, lists, acc, users_of, touched)
        likely, enough = _likely(mine, touched[:seen], lists, rules, acc, support, found, rough)
        _score_counts(mine, found[:likely], lists, rules, acc, partner, score)
        kept = min(enough, rules.top_k)
        if enough > kept:
            _keep_top(score[:likely], partner[:likely], kept)
        for y in range(kept):
            p = lists.place_of[partner[y]]
            out_trigger[filled] = lists.trigger[t]
            out_target[filled] = partner[y]
            out_score[filled] = score[y]
            out_support[filled] = support[p]
            out_total[filled] = acc[p, 0] * lists.alike
            out_ts[filled] = acc[p, 1]
            filled += 1
        tally[SCORED] += seen - 1  # all but the trigger itself
        tally[BELOW_MIN_SUPPORT] += seen - 1 - enough
        tally[BEYOND_TOP_K] += enough - kept
        for p in touched[:seen]:
            acc[p, 0] = 0
            acc[p, 1] = _NEVER
            if lists.repeats:
                users_of[p, 0] = 0
                users_of[p, 1] = 0
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
