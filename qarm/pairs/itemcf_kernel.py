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
up from partial ones.
"""

from __future__ import annotations

import math

import numpy as np

from qarm.pairs.compiled import compiled

#: Normalisations by name; their place is the kernel's number for them.
NORMALIZATIONS = ("none", "cosine", "jaccard", "lift", "tfidf", "bm25")
#: Slots of ``tally``.
SCORED, BELOW_MIN_SUPPORT, BEYOND_TOP_K = range(3)


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
def score_itemcf(  # type: ignore[no-untyped-def]
    trigger,
    trigger_indptr,
    trigger_entry,
    entry_user,
    indptr,
    code,
    position,
    ts,
    weight,
    decay,
    degree,
    recency,
    window_micros,
    scale,
    kind,
    totals,
    min_support,
    top_k,
    first,
    capacity,
    tally,
):
    """c(i,j) = sum over events of i and j of one user, ``gap`` apart, of r^(gap-1) w_i w_j d,
    d the decay of the later event.

    Terms are added as integers (multiples of 1/scale): the sum does not depend on the order, so
    that c(i,j) = c(j,i) to the last bit, and partial sums of different days add up exactly.

    Args:
        trigger: int64[t], codes of the block's triggers, ascending.
        trigger_indptr: int64[t + 1], bounds in ``trigger_entry``.
        trigger_entry: int64[...], entries of each trigger, in the users' order.
        entry_user: int64[e], row of the user of each entry.
        indptr: int64[users + 1], bounds of each user's entries, ascending in position.
        code: int64[e], 0-based dense code of the entry's item, ascending with the item.
        position: int64[e], place of the event in its user's order.
        ts: int64[e], microseconds.
        weight, decay, degree: float64[e], of the event, of its day, and its item's sum of weights.
        recency: float64[window], factor of events 1, 2, ... apart; its length is the window.
        window_micros: int64, farthest two events may be apart in time.
        scale: float64, steps of one unit of c.
        kind, totals: how c becomes a score, and (total weight, mean weight, k1, b); see
            ``normalised``.
        min_support, top_k: as in the configuration.
        first: trigger to start with.
        capacity: output rows that fit in this call; at least max(code) + 1.
        tally: int64[3], co-occurring pairs and where they went; added to.

    Returns:
        next trigger (t: done) and the rows: trigger and target codes, score, support (distinct
        users), weight (c itself), ts.
    """
    codes = 0
    for e in range(len(code)):
        codes = max(codes, code[e] + 1)
    window = len(recency)
    total = np.zeros(codes, np.int64)
    support = np.zeros(codes, np.int64)
    latest = np.zeros(codes, np.int64)
    last_user = np.full(codes, -1, np.int64)
    item_degree = np.zeros(codes, np.float64)
    touched = np.empty(codes, np.int64)
    for e in range(len(code)):
        item_degree[code[e]] = degree[e]

    out_trigger = np.empty(capacity, np.int64)
    out_target = np.empty(capacity, np.int64)
    out_score = np.empty(capacity, np.float64)
    out_support = np.empty(capacity, np.int64)
    out_weight = np.empty(capacity, np.float64)
    out_ts = np.empty(capacity, np.int64)
    filled = 0
    t = first
    while t < len(trigger):
        mine = trigger[t]
        seen = 0
        for x in range(trigger_indptr[t], trigger_indptr[t + 1]):
            e = trigger_entry[x]
            u = entry_user[e]
            for step in (-1, 1):
                other = e + step
                while indptr[u] <= other < indptr[u + 1]:
                    gap = (position[other] - position[e]) * step
                    if gap > window:
                        break
                    c = code[other]
                    if c != mine and abs(ts[other] - ts[e]) <= window_micros:
                        if support[c] == 0:
                            touched[seen] = c
                            seen += 1
                            latest[c] = ts[e]
                        later = max(e, other)
                        term = recency[gap - 1] * (weight[e] * weight[other]) * decay[later]
                        total[c] += np.int64(np.rint(term * scale))
                        if last_user[c] != u:
                            last_user[c] = u
                            support[c] += 1
                        latest[c] = max(latest[c], max(ts[e], ts[other]))
                    other += step
        order = np.sort(touched[:seen])
        if filled + min(seen, top_k) > capacity:
            for c in order:
                total[c] = 0
                support[c] = 0
                last_user[c] = -1
            break
        tally[SCORED] += seen
        kept = 0
        score = np.empty(seen, np.float64)
        for c in order:
            if support[c] < min_support:
                tally[BELOW_MIN_SUPPORT] += 1
                continue
            score[kept] = normalised(
                kind,
                total[c] / scale,
                item_degree[mine],
                item_degree[c],
                totals[0],
                totals[1],
                totals[2],
                totals[3],
            )
            touched[kept] = c
            kept += 1
        # Stable, and kept in order of items: the smaller item wins among equal scores.
        ranked = np.argsort(-score[:kept], kind="mergesort")[:top_k]
        tally[BEYOND_TOP_K] += kept - len(ranked)
        for r in ranked:
            c = touched[r]
            out_trigger[filled] = mine
            out_target[filled] = c
            out_score[filled] = score[r]
            out_support[filled] = support[c]
            out_weight[filled] = total[c] / scale
            out_ts[filled] = latest[c]
            filled += 1
        for c in order:
            total[c] = 0
            support[c] = 0
            last_user[c] = -1
        t += 1
    return (
        t,
        out_trigger[:filled],
        out_target[:filled],
        out_score[:filled],
        out_support[:filled],
        out_weight[:filled],
        out_ts[:filled],
    )
