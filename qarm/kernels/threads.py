"""Threads over ranges of rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import pairwise


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch computes on the calling thread alone; rows are divided among threads elsewhere."""
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def over_rows(work: Callable[[int, int], None], rows: int, threads: int, multiple: int) -> None:
    """Call ``work(start, stop)`` for ``threads`` ranges of rows, each a multiple of ``multiple``.

    What ``work`` does to a row must not depend on the range, so that any number of threads gives
    the same result.
    """
    tiles = -(-rows // multiple)
    cuts: Sequence[int] = [min(tiles * t // threads * multiple, rows) for t in range(threads + 1)]
    ranges = [(a, b) for a, b in pairwise(cuts) if b > a]
    # Without torch imported there is no thread pool of torch to limit.
    with one_torch_thread() if "torch" in sys.modules else nullcontext():
        if len(ranges) <= 1:
            for start, stop in ranges:
                work(start, stop)
            return
        with ThreadPoolExecutor(len(ranges)) as pool:
            for future in [pool.submit(work, start, stop) for start, stop in ranges]:
                future.result()
