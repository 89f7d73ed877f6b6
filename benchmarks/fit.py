"""Lloyd's algorithm on one level, two threads: ours against sklearn's KMeans.

    .venv/bin/python benchmarks/fit.py [--runs 3] [--rows 200000] [--iterations 25]

Both start from the same centres (k-means++), run as many iterations (tol 0, so that only a fixed
point ends them early) and give each point's code at the end. One JSON line a case on stdout;
``equal``: inertia within 0.1 %.

Points: unit vectors around 500 directions, as in assign_rq.py; and, as the hardest case for bounds,
a normal distribution without any structure.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from timing import interleaved, report, say

from qarm.codes.kmeans import Clusters, kmeans
from qarm.codes.seeding import seed_plus_plus

D = 64
CENTROIDS = (1024, 4096)
THREADS = 2


def make_points(kind: str, rows: int) -> np.ndarray:
    """(rows, D) float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, D))
    if kind == "clustered":
        x = rng.standard_normal((500, D))[rng.integers(500, size=rows)] + 0.7 * x
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32)


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--kinds", nargs="*", default=["clustered", "normal"])
    parser.add_argument("--centroids", nargs="*", type=int, default=CENTROIDS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    for kind in arguments.kinds:
        x = make_points(kind, arguments.rows)
        for k in arguments.centroids:
            case(kind, x, k, arguments.iterations, arguments.runs)


def case(kind: str, x: np.ndarray, k: int, iterations: int, runs: int) -> None:
    """Time one case and print it."""
    name = f"{kind}, {len(x)} x {D}, K {k}, {iterations} iterations"
    say(f"{name}: drawing the first centres")
    start = seed_plus_plus(x, k, 0)
    results: dict[str, Clusters | KMeans] = {}

    def ours(most: int = iterations) -> None:
        results["ours"] = kmeans(x, k, iterations=most, start=start, threads=THREADS)

    def peer() -> None:
        with threadpool_limits(THREADS):
            model = KMeans(k, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
            results["peer"] = model.fit(x)

    ours(2)  # compiles
    mine, other = interleaved(name, ours, peer, runs)
    inertia = float(results["ours"].distances.sum(dtype=np.float64))
    say(f"{name}: inertia {inertia:.3f}, sklearn {results['peer'].inertia_:.3f}")
    equal = abs(inertia - results["peer"].inertia_) <= 1e-3 * results["peer"].inertia_
    report("fit", name, "sklearn KMeans, lloyd", mine, other, equal)


if __name__ == "__main__":
    main()
