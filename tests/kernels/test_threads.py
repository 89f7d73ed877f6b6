"""Threads over ranges of rows."""

from __future__ import annotations

import threading

import pytest
import torch

from qarm.kernels.threads import one_torch_thread, over_rows


@pytest.mark.parametrize(("rows", "threads"), [(0, 2), (5, 1), (100, 3), (7, 4), (64, 2)])
def test_ranges_cover_all_rows_once(rows, threads) -> None:
    seen, lock = [], threading.Lock()

    def work(start, stop):
        with lock:
            seen.append((start, stop))

    over_rows(work, rows, threads, 4)
    assert sorted(i for start, stop in seen for i in range(start, stop)) == list(range(rows))
    assert all(start % 4 == 0 for start, _ in seen)
    assert len(seen) <= threads


def test_errors_of_a_thread_are_raised() -> None:
    def work(start, stop):
        raise ValueError(f"rows {start} to {stop}")

    with pytest.raises(ValueError, match="rows"):
        over_rows(work, 10, 2, 1)


def test_torch_has_one_thread_inside_and_its_own_number_outside() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
