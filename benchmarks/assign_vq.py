"""Assign kernel for VQ codes, one thread: exact top 25 of 100,000 anchors, d 64.

    .venv/bin/python benchmarks/assign_vq.py [--runs 5] [--rows 4096]
    .venv/bin/python benchmarks/assign_vq.py --index 2000000 [--probes 64]

Peers: torch addmm + topk at the best of several tiles (each tried before, the trials are on
stderr), and faiss IndexFlatL2 with the same batch. One JSON line a peer on stdout. ``equal``: ours
and the peer's list differ only where two neighbours in rank are equally near within 1e-6 of
||x||^2 + ||c||^2.

``--index``: the approximate index that larger pools go through (codes.vq_exact_anchors), over so
many anchors, against our exact kernel: seconds, recall of the exact lists, seconds to build it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import faiss
import numpy as np
import torch
from assign_rq import unit_vectors
from timing import interleaved, report, say, timed

from qarm.codes.anchor_index import AnchorIndex, build_index, recall
from qarm.codes.anchors import nearest_k, prepare_anchors
from qarm.config.codes import Codes

ANCHORS, DIMENSIONS, K = 100_000, 64, 25
#: Rows, anchors of a tile.
PEER_TILES = ((64, 100_000), (256, 100_000), (2048, 100_000), (256, 8192), (2048, 8192))


def peer_topk(
    x: torch.Tensor, anchors: torch.Tensor, half: torch.Tensor, rows: int, columns: int
) -> torch.Tensor:
    """Ids of the K nearest anchors by addmm + topk, in tiles; lists of tiles are merged by topk."""
    out = torch.empty(len(x), K, dtype=torch.int64)
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        lists, ids = [], []
        for first in range(0, len(anchors), columns):
            tile = anchors[first : first + columns]
            scores = torch.addmm(half[first : first + columns], part, tile.T, alpha=-1)
            least = scores.topk(min(K, len(tile)), dim=1, largest=False)
            lists.append(least.values)
            ids.append(least.indices + first)
        if len(lists) == 1:
            out[start : start + rows] = ids[0]
        else:
            chosen = torch.cat(lists, 1).topk(K, dim=1, largest=False).indices
            out[start : start + rows] = torch.cat(ids, 1).gather(1, chosen)
    return out


def equal_but_for_ties(
    x: np.ndarray, anchors: np.ndarray, ours: np.ndarray, peer: np.ndarray
) -> bool:
    """Whether at each rank both name an anchor of the same distance, within 1e-6."""
    for row in np.flatnonzero((ours != peer).any(1)):
        wide = x[row].astype(np.float64)
        a, b = (anchors[ids[row]].astype(np.float64) for ids in (ours, peer))
        apart = np.abs(((wide - a) ** 2).sum(1) - ((wide - b) ** 2).sum(1))
        if (apart > 1e-6 * ((wide**2).sum() + (a**2).sum(1))).any():
            return False
    return True


def time_index(anchors: np.ndarray, x: np.ndarray, probes: int, runs: int) -> None:
    """One line: the index against our exact kernel."""
    ready = prepare_anchors(anchors)
    made: list[AnchorIndex] = []
    build_s = timed(lambda: made.append(build_index(ready, probes=probes)))
    index = made[0]
    name = f"vq {K} of {len(anchors)}, d {DIMENSIONS}, {len(x)} rows, index of {index.cells} cells"
    found = recall(index, x, K)  # compiles; not timed
    ours_s, exact_s = interleaved(
        name, lambda: index.search(x, K), lambda: nearest_k(x, ready, K), runs
    )
    line = {
        "benchmark": "assign_vq",
        "case": f"{name}, {index.probes} probes",
        "ours_s": round(statistics.median(ours_s), 4),
        "peer": "our exact kernel",
        "peer_s": round(statistics.median(exact_s), 4),
        "ratio": round(statistics.median(b / a for a, b in zip(ours_s, exact_s, strict=True)), 2),
        "runs": runs,
        "recall": round(found, 4),
        "build_s": round(build_s, 1),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """Try the tiles, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--index", type=int, metavar="ANCHORS", help="time the index over so many")
    parser.add_argument("--probes", type=int, default=Codes().vq_index_probes)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    sizes = (arguments.index or ANCHORS, arguments.rows)
    anchors, x = unit_vectors(np.random.default_rng(0), DIMENSIONS, 500, sizes)
    if arguments.index:
        time_index(anchors, x, arguments.probes, arguments.runs)
        return
    x_torch, anchors_torch = torch.from_numpy(x), torch.from_numpy(anchors)
    half = (anchors_torch**2).sum(1) / 2
    seconds = {}
    for rows, columns in PEER_TILES:
        part = x_torch[: max(rows, 512)]
        peer_topk(part, anchors_torch, half, rows, columns)
        seconds[rows, columns] = timed(
            lambda: peer_topk(part, anchors_torch, half, rows, columns)  # noqa: B023
        ) / len(part)
        say(f"torch, tile {rows} x {columns}: {1e6 * seconds[rows, columns]:.0f} us a row")
    tile = min(seconds, key=seconds.__getitem__)
    index = faiss.IndexFlatL2(DIMENSIONS)
    index.add(anchors)
    ready = prepare_anchors(anchors)
    found = nearest_k(x, ready, K)  # compiles; not timed
    peers: dict[str, Callable[[], np.ndarray]] = {
        f"torch addmm + topk, tile {tile[0]} x {tile[1]}": lambda: peer_topk(
            x_torch, anchors_torch, half, *tile
        ).numpy(),
        "faiss IndexFlatL2": lambda: index.search(x, K)[1],
    }
    name = f"vq {K} of {ANCHORS}, d {DIMENSIONS}, {arguments.rows} rows"
    for peer, search in peers.items():
        equal = equal_but_for_ties(x, anchors, found, search())
        ours_s, peer_s = interleaved(
            f"{name}, {peer}", lambda: nearest_k(x, ready, K), search, arguments.runs
        )
        report("assign_vq", name, peer, ours_s, peer_s, equal)


if __name__ == "__main__":
    main()
