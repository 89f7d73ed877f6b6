"""Ranges of rows over threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from qarm.kernels.threads import one_torch_thread, over_rows


@pytest.fixture
def two_torch_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100])
def test_every_row_is_in_one_range(rows: int, threads: int) -> None:
    ranges = []
    counts = np.zeros(rows, int)

    def work(start: int, stop: int) -> None:
        ranges.append((start, stop))
        counts[start:stop] += 1

    over_rows(work, rows, threads, 16)
    assert (counts == 1).all()
    assert all(start % 16 == 0 and (stop % 16 == 0 or stop == rows) for start, stop in ranges)
    assert len(ranges) == min(threads, -(-rows // 16))


def test_no_rows_no_work() -> None:
    over_rows(lambda start, stop: pytest.fail("called"), 0, 4, 16)


def test_ranges_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)
    over_rows(lambda start, stop: both.wait() and None, 32, 2, 16)
    assert both.broken is False


def test_an_error_of_one_range_is_raised() -> None:
    def work(start: int, stop: int) -> None:
        if start == 16:
            raise ValueError(f"rows {start} to {stop}")

    with pytest.raises(ValueError, match="rows 16 to 32"):
        over_rows(work, 48, 3, 16)


def test_torch_computes_on_one_thread_meanwhile(two_torch_threads) -> None:
    seen = []
    over_rows(lambda start, stop: seen.append(torch.get_num_threads()), 16, 1, 16)
    assert seen == [1]
    assert torch.get_num_threads() == 2


def test_the_number_of_threads_is_restored_after_an_error(two_torch_threads) -> None:
    seen = []

    def fail() -> None:
        with one_torch_thread():
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [1]
    assert torch.get_num_threads() == 2
