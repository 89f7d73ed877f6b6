"""User2Item: the most similar item of the latest window, streamed. Arrays in, arrays out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qarm.kernels.compiled import compiled

#: Outcomes of a row.
PAIR, NO_VECTOR, NO_EARLIER_EVENT, NO_CANDIDATE, BELOW_MIN_SIMILARITY, NOT_A_TARGET = range(6)

#: Slots of ``State.scalars``.
_USER, _STARTED, _TS, _SEEN, _PENDING = range(5)


class State(NamedTuple):
    """State between two batches: O(window x d) for users of any length.

    ``window_*`` is a ring of the latest events strictly before the current instant, ``pending_*``
    one of the latest events at the current instant; row k of either lies at k modulo the window.
    """

    scalars: NDArray[Any]
    """int64[5]: user, started, ts, events put into the window so far, events at this instant."""
    window_item: NDArray[Any]
    """int64[window]; -1: an item without a vector."""
    window_vector: NDArray[Any]
    """float32[window, d], unit length."""
    pending_item: NDArray[Any]
    """int64[window]"""
    pending_vector: NDArray[Any]
    """float32[window, d]"""


def new_state(window: int, dimensions: int) -> State:
    """The state before the first row."""
    return State(
        np.zeros(5, np.int64),
        np.full(window, -1, np.int64),
        np.zeros((window, dimensions), np.float32),
        np.full(window, -1, np.int64),
        np.zeros((window, dimensions), np.float32),
    )


def unit_rows(vectors: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """``vectors`` (n x d) scaled to unit length as float32, and which rows are not zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    there = norms > 0
    return (vectors / np.where(there, norms, 1.0)[:, None]).astype(np.float32), there


@compiled
def find_triggers(  # type: ignore[no-untyped-def]
    user, item, ts, is_target, vector_row, vectors, min_similarity, state
):
    """For each target, the trigger: the most similar item among the user's latest events.

    Rows must be sorted by (user, ts, item descending). Among equal similarities and at the window's
    edge the later row wins: the latest event, then the smallest item.

    Args:
        user, item, ts: int64[n].
        is_target: bool[n]; other rows only enter windows.
        vector_row: int64[n], row of ``vectors``; -1: the item has no vector.
        vectors: float32[m, d], unit length.
        min_similarity: smallest cosine of a pair.
        state: state after the previous batch; changed in place.

    Returns:
        trigger int64[n] (-1: none), similarity float64[n], outcome int8[n] (see the constants).
    """
    n = len(user)
    trigger = np.full(n, -1, np.int64)
    similarity = np.zeros(n, np.float64)
    outcome = np.full(n, NOT_A_TARGET, np.int8)
    scalars, window_item, window_vector, pending_item, pending_vector = state
    window = len(window_item)
    dimensions = vectors.shape[1]
    for row in range(n):
        if scalars[_STARTED] == 0 or user[row] != scalars[_USER]:
            scalars[_STARTED] = 1
            scalars[_USER] = user[row]
            scalars[_TS] = ts[row]
            scalars[_SEEN] = 0
            scalars[_PENDING] = 0
        elif ts[row] != scalars[_TS]:  # a later instant: what was simultaneous is now earlier
            scalars[_TS] = ts[row]
            pending = scalars[_PENDING]
            for k in range(max(0, pending - window), pending):
                into = scalars[_SEEN] % window
                window_item[into] = pending_item[k % window]
                window_vector[into] = pending_vector[k % window]
                scalars[_SEEN] += 1
            scalars[_PENDING] = 0
        mine = vector_row[row]
        if is_target[row]:
            if mine < 0:
                outcome[row] = NO_VECTOR
            elif scalars[_SEEN] == 0:
                outcome[row] = NO_EARLIER_EVENT
            else:
                best = -2.0
                seen = scalars[_SEEN]
                for k in range(seen - 1, max(seen - window, 0) - 1, -1):
                    slot = k % window
                    other = window_item[slot]
                    if other < 0 or other == item[row]:
                        continue
                    cosine = 0.0
                    for axis in range(dimensions):
                        cosine += np.float64(window_vector[slot, axis]) * vectors[mine, axis]
                    if cosine > best:
                        best = cosine
                        trigger[row] = other
                if trigger[row] < 0:
                    outcome[row] = NO_CANDIDATE
                else:
                    similarity[row] = min(max(best, -1.0), 1.0)
                    outcome[row] = PAIR if best >= min_similarity else BELOW_MIN_SIMILARITY
        into = scalars[_PENDING] % window
        pending_item[into] = item[row] if mine >= 0 else -1
        if mine >= 0:
            pending_vector[into] = vectors[mine]
        scalars[_PENDING] += 1
    return trigger, similarity, outcome
