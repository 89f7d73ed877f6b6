"""Swing of one block of triggers, with an inverted index of each trigger's users."""

from __future__ import annotations

import numpy as np

from qarm.kernels.compiled import compiled

#: Slots of ``tally``.
SCORED, BELOW_MIN_SUPPORT, BEYOND_TOP_K = range(3)


@compiled
def score_swing(  # type: ignore[no-untyped-def]
    trigger,
    trigger_indptr,
    trigger_entry,
    trigger_user,
    indptr,
    code,
    sampled,
    ts,
    weight,
    user_weight,
    alpha2,
    min_support,
    top_k,
    first,
    capacity,
    tally,
):
    """s(i,j) = sum over {u,v} in S_i n S_j of w_u w_v / (alpha2 + |I_u n I_v|) (arXiv 2010.05525).

    S_i are the sampled users of item i, I_u the items of user u. For a trigger i, the lists of S_i
    are turned into an inverted index item -> users; one pass over it counts the overlaps of all
    pairs of users, a second one adds up the scores. The order of users is fixed, so s(i,j) and
    s(j,i) are equal to the last bit.

    Args:
        trigger: int64[t], codes of the block's triggers, ascending.
        trigger_indptr: int64[t + 1], bounds in ``trigger_entry``.
        trigger_entry: int64[...], the entries of each trigger in its sampled users' lists, in
            the users' order.
        trigger_user: int64[...], rows of their users.
        indptr: int64[users + 1], bounds of each user's entries.
        code: int32[e], 0-based dense code of the entry's item, ascending with the item.
        sampled: bool[e], whether the user belongs to S of the entry's item.
        ts: int64[e]; weight: float64[e]; user_weight: float64[users], w_u.
        alpha2, min_support, top_k: as in the configuration.
        first: trigger to start with.
        capacity: output rows that fit in this call; at least max(code) + 1.
        tally: int64[3], scored pairs and dropped pairs by reason; added to.

    Returns:
        next trigger (t: done) and the rows: trigger and target codes, score, support, weight, ts.
    """
    codes = 0
    for e in range(len(code)):
        codes = max(codes, code[e] + 1)
    most_users = 0
    most_entries = 0
    for t in range(first, len(trigger)):
        most_users = max(most_users, trigger_indptr[t + 1] - trigger_indptr[t])
        entries = 0
        for x in range(trigger_indptr[t], trigger_indptr[t + 1]):
            u = trigger_user[x]
            entries += indptr[u + 1] - indptr[u]
        most_entries = max(most_entries, entries)

    count = np.zeros(codes, np.int64)
    fill = np.zeros(codes, np.int64)
    touched = np.empty(codes, np.int64)
    posting = np.empty(most_entries, np.int64)  # place of the user among the trigger's users
    posting_entry = np.empty(most_entries, np.int64)
    overlap = np.empty((most_users, most_users), np.int32)
    term = np.empty((most_users, most_users), np.float64)
    member = np.empty(most_users, np.int64)
    found_code = np.empty(codes, np.int64)
    found_score = np.empty(codes, np.float64)
    found_support = np.empty(codes, np.int64)
    found_weight = np.empty(codes, np.float64)
    found_ts = np.empty(codes, np.int64)

    out_trigger = np.empty(capacity, np.int64)
    out_target = np.empty(capacity, np.int64)
    out_score = np.empty(capacity, np.float64)
    out_support = np.empty(capacity, np.int64)
    out_weight = np.empty(capacity, np.float64)
    out_ts = np.empty(capacity, np.int64)
    filled = 0
    t = first
    while t < len(trigger):
        begin = trigger_indptr[t]
        users = trigger_indptr[t + 1] - begin
        if users < 2:
            t += 1
            continue
        seen = 0
        for a in range(users):
            u = trigger_user[begin + a]
            for e in range(indptr[u], indptr[u + 1]):
                c = code[e]
                if count[c] == 0:
                    touched[seen] = c
                    seen += 1
                count[c] += 1
        if filled + min(seen, top_k) > capacity:
            for x in range(seen):
                count[touched[x]] = 0
            break
        order = touched[:seen]
        running = 0
        for c in order:
            fill[c] = running
            running += count[c]
        for a in range(users):
            u = trigger_user[begin + a]
            for e in range(indptr[u], indptr[u + 1]):
                c = code[e]
                posting[fill[c]] = a
                posting_entry[fill[c]] = e
                fill[c] += 1

        for a in range(users):
            overlap[a, a + 1 : users] = 1  # the trigger itself
        for c in order:
            if c == trigger[t]:
                continue
            for x in range(fill[c] - count[c], fill[c]):
                a = posting[x]
                for y in range(x + 1, fill[c]):
                    overlap[a, posting[y]] += 1
        for a in range(users):
            wa = user_weight[trigger_user[begin + a]]
            for b in range(a + 1, users):
                wb = user_weight[trigger_user[begin + b]]
                term[a, b] = wa * wb / (alpha2 + overlap[a, b])

        found = 0
        for c in order:
            lo, hi = fill[c] - count[c], fill[c]
            count[c] = 0
            if c == trigger[t]:
                continue
            support = 0
            total_weight = 0.0
            latest = np.int64(-(2**62))
            for x in range(lo, hi):
                e = posting_entry[x]
                if sampled[e]:
                    mine = trigger_entry[begin + posting[x]]
                    member[support] = posting[x]
                    support += 1
                    total_weight += weight[e] + weight[mine]
                    latest = max(latest, max(ts[e], ts[mine]))
            if support < 2:
                continue
            tally[SCORED] += 1
            if support < min_support:
                tally[BELOW_MIN_SUPPORT] += 1
                continue
            score = 0.0
            for x in range(support):
                for y in range(x + 1, support):
                    score += term[member[x], member[y]]
            found_code[found] = c
            found_score[found] = score
            found_support[found] = support
            found_weight[found] = total_weight
            found_ts[found] = latest
            found += 1
        # Stable, from the order of items: the smaller item wins among equal scores.
        by_code = np.argsort(found_code[:found])
        ranked = by_code[np.argsort(-found_score[:found][by_code], kind="mergesort")[:top_k]]
        tally[BEYOND_TOP_K] += found - len(ranked)
        for r in ranked:
            out_trigger[filled] = trigger[t]
            out_target[filled] = found_code[r]
            out_score[filled] = found_score[r]
            out_support[filled] = found_support[r]
            out_weight[filled] = found_weight[r]
            out_ts[filled] = found_ts[r]
            filled += 1
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
