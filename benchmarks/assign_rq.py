"""Assign kernel for residual codes, one thread: ours against torch addmm + argmin in tiles.

    .venv/bin/python benchmarks/assign_rq.py [--runs 7] [--rows 32768]

One JSON line a case on stdout. ``equal``: both give the same codes but for rows where, at the first
level they differ in and given the same prefix, the two centroids are equally near within 1e-6 of
||x||^2 + ||c||^2.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from timing import interleaved, report, say

from qarm.codes.kmeans import kmeans
from qarm.kernels.nearest import encode, prepare

#: (levels, centroids a level, dimensions), as published: OneRec 3 x 8192; QARM L = 6.
CASES = ((3, 8192, 64), (3, 8192, 128), (6, 1024, 64))
PEER_TILE = 2048


def peer_encode(x: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
    """Residual codes by addmm + argmin, tiles of PEER_TILE rows."""
    half = [(level * level).sum(1) / 2 for level in levels]
    out = torch.empty(len(x), len(levels), dtype=torch.int64)
    for start in range(0, len(x), PEER_TILE):
        rest = x[start : start + PEER_TILE]
        for number, level in enumerate(levels):
            code = torch.addmm(half[number], rest, level.T, alpha=-1).argmin(1)
            out[start : start + PEER_TILE, number] = code
            rest = rest - level[code]
    return out


def unit_vectors(
    rng: np.random.Generator, d: int, topics: int, sizes: Sequence[int]
) -> Iterator[np.ndarray]:
    """Matrices of unit vectors around the same ``topics`` directions, one of each size."""
    centres = rng.standard_normal((topics, d))
    for n in sizes:
        x = centres[rng.integers(topics, size=n)] + 0.7 * rng.standard_normal((n, d))
        yield (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_case(levels: int, size: int, d: int, rows: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Unit vectors around clustered directions, and centroids of that distribution.

    One Lloyd iteration a level from centres drawn among the points is enough: the kernel's time
    does not depend on how far the fit has converged.
    """
    rng = np.random.default_rng(0)
    x, rest = unit_vectors(rng, d, 500, (rows, 2 * size))
    codebook = []
    for _ in range(levels):
        start = rest[rng.choice(len(rest), size, replace=False)]
        level = kmeans(rest, size, iterations=1, start=start).centroids
        rest = rest - level[encode(rest, [prepare(level)])[0][:, 0]]
        codebook.append(level)
    return x, codebook


def equal_but_for_ties(
    x: np.ndarray, levels: list[np.ndarray], ours: np.ndarray, peer: np.ndarray
) -> bool:
    """Whether each first difference between two codes of a row is a tie within 1e-6, ours being no
    farther but by the rounding of float64 (two centroids near zero differ by no more)."""
    for row in np.flatnonzero((ours != peer).any(1)):
        rest = x[row].astype(np.float32)
        for level, a, b in zip(levels, ours[row], peer[row], strict=True):
            if a != b:
                wide = rest.astype(np.float64)
                near = [((wide - level[c]) ** 2).sum() for c in (a, b)]
                scale = (wide**2).sum() + max((level[c].astype(float) ** 2).sum() for c in (a, b))
                farther = (near[0] - near[1]) / scale
                if farther > 1e-14 or farther < -1e-6:
                    return False
                break
            rest = rest - level[a]
    return True


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--rows", type=int, default=32768)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for n_levels, size, d in CASES:
        name = f"rq {n_levels} x {size}, d {d}, {arguments.rows} rows"
        say(f"{name}: making the case")
        x, levels = make_case(n_levels, size, d, arguments.rows)
        ready = [prepare(level) for level in levels]
        x_torch, levels_torch = torch.from_numpy(x), [torch.from_numpy(level) for level in levels]
        ours_codes = encode(x, ready)[0]  # compiles; neither first call is timed
        equal = equal_but_for_ties(
            x, levels, ours_codes, peer_encode(x_torch, levels_torch).numpy()
        )
        ours, peer = interleaved(
            name,
            lambda: encode(x, ready),  # noqa: B023  called at once
            lambda: peer_encode(x_torch, levels_torch),  # noqa: B023
            arguments.runs,
        )
        report("assign_rq", name, f"torch addmm + argmin, tile {PEER_TILE}", ours, peer, equal)


if __name__ == "__main__":
    main()
