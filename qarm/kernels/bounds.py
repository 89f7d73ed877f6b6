"""Nearest centroids of the same points, again and again, while the centroids move: Lloyd's loop.

Same codes as ``nearest``, with most of the work skipped. Centroids are grouped once, near ones
together. Each point keeps a lower bound of its distance to each group; a centroid that moves by
``drift`` lowers the bound by no more than that, so a group whose bound is still above the distance
to the point's own centroid cannot hold a nearer one (Ding et al., Yinyang k-means, ICML 2015; its
global and local filters are left out). What is not ruled out is computed by the kernel of
``nearest``: for each group, its centroids with the points that need it, gathered into panels.

Every bound carries the error of float32 (Higham's, as in ``nearest``), and rows whose two best
scores are closer than that are decided in float64, so that a code is the float64 argmin, ties to
the lower code, whatever the number of threads.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from qarm.errors import InputError
from qarm.kernels.compiled import FINITE, REORDERED, compiled
from qarm.kernels.microkernel import MOST, MR, WIDTH, fold_level, pack
from qarm.kernels.nearest import Floats, Ints, nearest
from qarm.kernels.threads import over_rows

BLOCK = 2048
"""Points per block; a range of a thread is a multiple of it."""
GROUP = 32
"""Centroids of a group, on average; more where there would be more than ``GROUPS`` groups."""
GROUPS = 64
"""Maximum number of groups, or d if that is more: the bounds, one number per point and group, then
need at most the memory of the points, or 256 bytes per point."""
_SAFE = 1e-6  # relative; float32 rounds at 6e-8
_GROUPING_ITERATIONS = 5
_MANY = 0.7  # of a block's points: then all of them, which lie in panels already


class MovingCentroids:
    """The points, and what is known of their distances from the last call on."""

    def __init__(self, points: Floats, *, threads: int = 1) -> None:
        """``points`` (n, d), finite; rows are split over ``threads``."""
        self._points, self._threads = points, threads
        self._order: Ints | None = None
        self._young = True  # grouped by the first centroids, or not at all

    def nearest(self, centroids: Floats) -> tuple[Ints, Floats]:
        """Codes (n,) and squared distances (n,) for ``centroids`` (K, d), K as in calls before.

        Raises:
            InputError: dimensions differ.
        """
        k, d = centroids.shape
        if d != self._points.shape[1]:
            raise InputError(f"points have {self._points.shape[1]} dimensions, centroids {d}")
        if k < 2 * GROUP or _has_equal(centroids):
            # Too few to be worth bounds, or equal ones, whose ties ``nearest`` knows how to avoid.
            self._order = None
            return nearest(self._points, centroids, threads=self._threads)
        if self._order is None or self._young:
            # Again at the second call: the first centroids are points and stay near to nothing.
            self._young = self._order is None
            self._group(centroids)
        return self._assign(centroids)

    def _group(self, centroids: Floats) -> None:
        """Put near centroids into one group, and forget all bounds."""
        k, n = len(centroids), len(self._points)
        wanted = min(k // GROUP, max(GROUPS, centroids.shape[1]))
        middles = centroids[:: k // wanted][:wanted].copy()
        for _ in range(_GROUPING_ITERATIONS):
            groups, _ = nearest(centroids, middles)
            for group in range(wanted):
                if len(members := np.flatnonzero(groups == group)):
                    middles[group] = centroids[members].mean(axis=0)
        groups, _ = nearest(centroids, middles)
        members = np.argsort(groups, kind="stable")
        sizes = np.bincount(groups)
        sizes = sizes[sizes > 0]
        room = -(-sizes // MR) * MR  # whole blocks of the kernel
        self._ends = np.concatenate([[0], np.cumsum(room)])
        self._group_of = np.repeat(np.arange(len(sizes)), room)
        self._order = np.full(self._ends[-1], -1, np.int32)
        within = np.arange(k) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        self._order[np.repeat(self._ends[:-1], sizes) + within] = members
        self._before = self._arrange(centroids)
        self._places = np.full(n, -1, np.int32)  # of a point's centroid, in that order
        self._bounds = [
            np.zeros((len(sizes), min(BLOCK, n - start)), np.float32)
            for start in range(0, n, BLOCK)
        ]

    def _arrange(self, centroids: Floats) -> Floats:
        """In the order of the groups, zeros where a group is filled up."""
        assert self._order is not None
        arranged = np.zeros((len(self._order), centroids.shape[1]), np.float32)
        arranged[self._order >= 0] = centroids[self._order[self._order >= 0]]
        return arranged

    def _assign(self, centroids: Floats) -> tuple[Ints, Floats]:
        points, order, ends = self._points, self._order, self._ends
        assert order is not None
        now = self._arrange(centroids)
        moved = np.sqrt(((now.astype(np.float64) - self._before) ** 2).sum(axis=1))
        drift = (np.maximum.reduceat(moved, ends[:-1]) * (1 + _SAFE)).astype(np.float32)
        squares = (now.astype(np.float64) ** 2).sum(axis=1)
        half_norms = np.where(order < 0, MOST, squares / 2).astype(np.float32)
        slope, offset = _margin(points.shape[1], float(np.sqrt(squares.max())))
        groups = [
            (number, int(a), now[a:b], half_norms[a:b])
            for number, (a, b) in enumerate(pairwise(ends))
        ]
        distances = np.empty(len(points), np.float32)

        def work(start: int, stop: int) -> None:
            square, best, second, upper, error, least, next_least = np.empty(
                (7, BLOCK + WIDTH), np.float32
            )
            where, chosen = np.empty((2, BLOCK + WIDTH), np.int32)
            every = np.arange(BLOCK, dtype=np.int32)
            whole, some = np.empty((2, -(-BLOCK // WIDTH), points.shape[1], WIDTH), np.float32)
            for first in range(start, stop, BLOCK):
                x = points[first : min(first + BLOCK, stop)]
                places = self._places[first : first + len(x)]
                bounds = self._bounds[first // BLOCK]
                packed = False
                _own(x, now, places, slope, offset, square, best, second, upper, error)
                for group, begin, vectors, halves in groups:
                    count = _select(bounds[group], drift[group], upper, chosen)
                    if count == 0:
                        continue
                    if count > _MANY * len(x):
                        if not packed:
                            pack(x, len(x), whole)
                            packed = True
                        rows, panels = every[: len(x)], whole
                    else:
                        rows, panels = chosen[:count], some
                        _pack_rows(x, rows, some)
                    fold_level(
                        panels, len(rows), vectors, halves, len(halves), least,
                        next_least, where,
                    )  # fmt: skip
                    _merge(
                        rows, group, begin, least, next_least, where, self._group_of, square,
                        error, places, best, second, upper, bounds,
                    )  # fmt: skip
                _decide(
                    x, now, order, self._group_of, ends, error, best, second, upper, bounds,
                    places, distances[first : first + len(x)],
                )  # fmt: skip

        over_rows(work, len(points), self._threads, BLOCK)
        self._before = now
        return order[self._places], distances


def _has_equal(centroids: Floats) -> bool:
    """Whether two rows are equal to the bit (false positives have a chance of about 2^-40)."""
    k, d = centroids.shape
    factors = np.random.default_rng(0).integers(2**63, size=d, dtype=np.uint64) * 2 + 1
    keys = (centroids.view(np.uint32) * factors).sum(axis=1)  # modulo 2^64
    return len(np.unique(keys)) < k


def _margin(dimensions: int, longest: float) -> tuple[float, float]:
    """(a, b): a score ||c||^2 / 2 - x.c of float32 is off by less than a ||x|| + b.

    Higham, Accuracy and Stability of Numerical Algorithms, 3.1, for the product in any order of
    summation; b for the half norm, and as much again for what is rounded afterwards.
    """
    u = 2.0**-24
    a = 2 * u * (dimensions / (1 - dimensions * u) + 2) * longest
    return a, 2 * u * longest**2


@compiled(fastmath=REORDERED)
def _own(x, centroids, places, slope, offset, square, best, second, upper, error):  # type: ignore[no-untyped-def]
    """Start with the score of each point's own centroid; error: how far off a score can be."""
    for i in range(len(x)):
        total = np.float64(0)
        for m in range(x.shape[1]):
            total += np.float64(x[i, m]) * np.float64(x[i, m])
        square[i] = total
        error[i] = (slope * np.sqrt(total) + offset + total * 1.2e-7) * 1.000001
        second[i] = MOST
        place = places[i]
        if place < 0:
            best[i] = MOST
            upper[i] = MOST
            continue
        distance = np.float64(0)
        for m in range(x.shape[1]):
            difference = np.float64(x[i, m]) - np.float64(centroids[place, m])
            distance += difference * difference
        best[i] = (distance - total) / 2
        upper[i] = np.sqrt(distance) * 1.000001


@compiled(fastmath=FINITE)
def _select(bounds, drift, upper, chosen):  # type: ignore[no-untyped-def]
    """Lower the bounds by the group's drift; the points that it may hold a nearer centroid for."""
    count = 0
    for i in range(len(bounds)):
        bound = (bounds[i] - drift) * np.float32(0.9999998)
        bounds[i] = bound
        chosen[count] = i
        count += bound <= upper[i]
    return count


@compiled(fastmath=FINITE)
def _pack_rows(x, rows, panels):  # type: ignore[no-untyped-def]
    """These rows of x into panels (P, d, WIDTH), zeros behind them."""
    r, d = len(rows), x.shape[1]
    for p in range((r + WIDTH - 1) // WIDTH):
        for i in range(WIDTH):
            at = p * WIDTH + i
            if at < r:
                row = rows[at]
                for m in range(d):
                    panels[p, m, i] = x[row, m]
            else:
                for m in range(d):
                    panels[p, m, i] = np.float32(0)


@compiled(fastmath=FINITE)
def _lower(square, score, error):  # type: ignore[no-untyped-def]
    """No more than the distance that a score stands for."""
    distance = np.float64(square) + 2 * (np.float64(score) - np.float64(error))
    return np.float32(np.sqrt(np.maximum(distance, 0.0)) * 0.999999)


@compiled(fastmath=FINITE)
def _merge(  # type: ignore[no-untyped-def]
    rows, group, begin, least, next_least, where, group_of, square, error, places, best, second,
    upper, bounds,
):  # fmt: skip
    """Take a group's smallest scores over; the bound is of its centroids but the point's own."""
    for j in range(len(rows)):
        i = rows[j]
        score, other, place = least[j], next_least[j], begin + where[j]
        before = places[i]
        if place == before:
            second[i] = min(second[i], other)
            score = other
        elif score < best[i]:
            if before >= 0 and group_of[before] != group:
                former = group_of[before]
                bound = _lower(square[i], best[i], error[i])
                bounds[former, i] = min(bounds[former, i], bound)
            second[i] = min(best[i], other)
            best[i], places[i] = score, place
            distance = np.float64(square[i]) + 2 * (np.float64(score) + np.float64(error[i]))
            upper[i] = np.sqrt(np.maximum(distance, 0.0)) * 1.000001
            score = other
        else:
            second[i] = min(second[i], score)
        bounds[group, i] = _lower(square[i], score, error[i])


@compiled(fastmath=REORDERED)
def _distance(x, c):  # type: ignore[no-untyped-def]
    total = np.float64(0)
    for m in range(len(x)):
        difference = np.float64(x[m]) - np.float64(c[m])
        total += difference * difference
    return total


@compiled(fastmath=REORDERED)
def _decide(  # type: ignore[no-untyped-def]
    x, centroids, order, group_of, ends, error, best, second, upper, bounds, places, distances
):
    """Decide points whose two best scores are too close by float64; the squared distances."""
    for i in range(len(x)):
        if np.float64(second[i]) - np.float64(best[i]) <= 2 * np.float64(error[i]):
            first = places[i]
            least = _distance(x[i], centroids[first])
            own, place = least, first
            for group in range(len(bounds)):
                if bounds[group, i] > upper[i]:
                    continue
                for j in range(ends[group], ends[group + 1]):
                    if order[j] < 0:
                        continue
                    distance = _distance(x[i], centroids[j])
                    if distance < least or (distance == least and order[j] < order[place]):
                        least, place = distance, j
            if place != first:
                places[i] = place
                former = group_of[first]
                bounds[former, i] = min(bounds[former, i], np.float32(np.sqrt(own) * 0.999999))
        total = np.float64(0)
        for m in range(x.shape[1]):
            rest = x[i, m] - centroids[places[i], m]
            total += np.float64(rest) * np.float64(rest)
        distances[i] = total
