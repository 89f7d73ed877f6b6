"""Windowed co-occurrence of one block of triggers, row by row of the sparse product."""

from __future__ import annotations

import numpy as np

from qarm.pairs.compiled import compiled

#: Slots of ``tally``.
SCORED, BELOW_MIN_SUPPORT, BEYOND_TOP_K = range(3)


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
    degree,
    recency,
    scale,
    cosine,
    min_support,
    top_k,
    first,
    capacity,
    tally,
):
    """c(i,j) = sum over events of i and j of one user, ``gap`` apart, of r^(gap-1) w_i w_j.

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
        ts: int64[e]; weight, degree: float64[e], the event's weight and its item's sum of weights.
        recency: float64[window], factor of events 1, 2, ... apart; its length is the window.
        scale: float64, steps of one unit of c.
        cosine: whether c is divided by sqrt(degree_i degree_j).
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
                    if c != mine:
                        if support[c] == 0:
                            touched[seen] = c
                            seen += 1
                            latest[c] = ts[e]
                        total[c] += np.int64(
                            np.rint(recency[gap - 1] * (weight[e] * weight[other]) * scale)
                        )
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
            value = total[c] / scale
            if cosine:
                value /= np.sqrt(item_degree[mine] * item_degree[c])
            score[kept] = value
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
