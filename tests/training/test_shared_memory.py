"""Sums in memory that ranks share; ranks are threads here, and processes in test_launch."""

from __future__ import annotations

import gc
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qarm.training import shared_memory
from qarm.training.shared_memory import SharedMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such memory")

T = TypeVar("T")
_SECONDS = 20


class World:
    """Ranks that are threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._given: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=_SECONDS)

    def gather(self, rank: int) -> Callable[[Any], list[Any]]:
        """What ``collectives.gather_objects`` does, for this rank."""

        def gathered(value: Any) -> list[Any]:
            self._given[rank] = value
            self._barrier.wait()
            everybody = list(self._given)
            self._barrier.wait()
            return everybody

        return gathered

    def run(self, work: Callable[[int], T]) -> list[T]:
        """``work(rank)`` of all at once."""
        results: list[Future[T]] = [Future() for _ in range(self.size)]

        def answer(rank: int) -> None:
            try:
                results[rank].set_result(work(rank))
            except BaseException as error:
                results[rank].set_exception(error)

        for rank in range(self.size):  # daemons: one that waits for ever keeps no test run
            threading.Thread(target=answer, args=(rank,), daemon=True).start()
        return [result.result(_SECONDS) for result in results]

    def connect(self, rank: int) -> SharedMemory | None:
        """As ``collectives`` does."""
        return SharedMemory.connect(rank, self.size, self.gather(rank))


def tensors(sizes: list[list[int]], rank: int, step: int) -> list[list[Tensor]]:
    """A group of float64, then of float32, and so on; values whose sum depends on the order."""
    random = torch.Generator().manual_seed(100 * step + rank)
    return [
        [
            (torch.randn(size, 2, generator=random, dtype=torch.float64) * 10.0 ** (3 * rank)).to(
                torch.float32 if number % 2 else torch.float64
            )
            for size in group
        ]
        for number, group in enumerate(sizes)
    ]


def rows(sizes: list[list[int]], rank: int, step: int) -> list[Tensor]:
    """A tensor for each group, with another number of rows on each rank."""
    return [
        torch.cat(group)[: (7 * rank + step) % 5].to(torch.int64 if number % 2 else torch.float64)
        for number, group in enumerate(tensors(sizes, rank, step))
    ]


@settings(max_examples=25, deadline=None)
@given(
    world=st.integers(2, 5),
    steps=st.lists(
        st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=3),
        min_size=1,
        max_size=5,
    ),
)
def test_all_ranks_get_sums_and_rows_in_the_order_of_ranks(world, steps):
    def work(rank: int) -> list[Any]:
        shared = ranks.connect(rank)
        assert shared is not None
        found = [
            (
                shared.sum(tensors(sizes, rank, step), "steps"),
                shared.gather(rows(sizes, rank, step), "rows"),
            )
            for step, sizes in enumerate(steps)
        ]
        shared.close()
        return found

    ranks = World(world)
    for found in ranks.run(work):
        for step, (sums, gathered) in enumerate(found):
            of_ranks = [tensors(steps[step], rank, step) for rank in range(world)]
            assert len(sums) == len(steps[step])
            for group, total in enumerate(sums):
                first, *others = (torch.cat(each[group]).reshape(-1) for each in of_ranks)
                for other in others:
                    first = first + other
                assert torch.equal(total, first)
            rows_of_ranks = [rows(steps[step], rank, step) for rank in range(world)]
            assert len(gathered) == len(rows_of_ranks[0])
            for whole, parts in zip(gathered, zip(*rows_of_ranks, strict=True), strict=True):
                assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("size", [2, 3])
def test_sums_are_divided_by_the_weight_of_all(size):
    ranks = World(size)

    def work(rank: int) -> list[list[float]]:
        shared = ranks.connect(rank)
        assert shared is not None
        none, some = torch.tensor(0.0), torch.tensor(float(rank), dtype=torch.float64)
        groups = [[torch.full((5,), 3.0)], [torch.tensor(1.0, dtype=torch.float64)]]
        return [total.tolist() for w in (some, none) for total in shared.sum(groups, "mean", w)]

    weight = sum(range(size))
    third = torch.tensor(1.0 / weight)
    for found in ranks.run(work):
        assert found[0] == (torch.full((5,), 3.0 * size) * third).tolist()
        assert found[1:3] == [[size * (1.0 / weight)], [weight]]
        assert found[3:] == [[0.0] * 5, [0.0], [0.0]]


def test_sums_stay_when_later_ones_are_made():
    """A rank may be two sums ahead in its thoughts, never in the memory that another reads."""
    ranks = World(3)

    def work(rank: int) -> list[Tensor]:
        shared = ranks.connect(rank)
        assert shared is not None
        return [shared.sum([[torch.full((999,), 10.0**k)]], "sum")[0] for k in range(6)]

    for found in ranks.run(work):
        assert [set(total.tolist()) for total in found] == [{3 * 10.0**k} for k in range(6)]


def test_a_rank_that_leaves_is_named_and_nobody_waits():
    ranks = World(3)

    def work(rank: int) -> str:
        shared = ranks.connect(rank)
        assert shared is not None
        shared.sum([[torch.ones(5)]], "sum")
        if rank == 1:
            shared.close()
            return ""
        try:
            shared.sum([[torch.ones(5)]], "sum")
        except ConnectionError as error:
            return str(error)
        finally:
            shared.close()
        return "no error"

    first, _, last = ranks.run(work)
    assert first == "rank 1 is gone"
    assert last in {"rank 1 is gone", "rank 0 is gone"}, "who is asked first"


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ("sum", [[torch.ones(9)]], "other types or shapes"),
        ("sum", [[torch.ones(5, dtype=torch.int32)]], "other types or shapes"),
        ("sum", [[torch.ones(2)], [torch.ones(3)]], "other types or shapes"),
        ("sum", [[torch.ones(99_999)]], "other sizes"),
        ("gather", [torch.ones(5, 3)], "other types or shapes"),
        ("gather", [torch.ones(5, 2, dtype=torch.int32)], "other types or shapes"),
    ],
)
def test_ranks_that_do_not_do_the_same_say_so(one, other, says):
    """Also where what they put down takes the same place."""
    usual = [[torch.ones(5)]] if one == "sum" else [torch.ones(5, 2)]
    found = fail_with(lambda shared, rank: getattr(shared, one)(other if rank else usual, "one"))
    assert any(says in each for each in found)


def test_ranks_that_are_elsewhere_say_where():
    def work(shared: SharedMemory, rank: int) -> None:
        if rank:
            shared.gather([torch.ones(5)], "the rows")
        else:
            shared.sum([[torch.ones(5)]], "the sums")

    found = fail_with(work)
    assert any(re.search(r"in 'the (rows|sums)' \(meeting 3\), rank", each) for each in found)


def fail_with(work: Callable[[SharedMemory, int], Any]) -> list[str]:
    """What two ranks say that do this after a first sum."""
    ranks = World(2)

    def fail(rank: int) -> str:
        shared = ranks.connect(rank)
        assert shared is not None
        shared.sum([[torch.ones(99)]], "first")
        with pytest.raises(ConnectionError) as raised:
            work(shared, rank)
        shared.close()
        return str(raised.value)

    return ranks.run(fail)


def test_ranks_of_any_pace_do_not_disturb_each_other(monkeypatch):
    """After each meeting another rank is late to read what the others might already write over."""

    class Uneven(SharedMemory):
        def meet(self, name: str, *numbers: int) -> list[tuple[int, ...]]:
            found = super().meet(name, *numbers)
            if self._meetings % 3 == self.rank:
                time.sleep(0.02)
            return found

    monkeypatch.setattr(shared_memory, "_KEPT_BYTES", 20_000)
    ranks = World(3)
    sizes = [900, 3, 900, 5000, 7, 900]

    def work(rank: int) -> list[Any]:
        shared = Uneven.connect(rank, 3, ranks.gather(rank))
        assert shared is not None
        found = []
        for step, size in enumerate(sizes):
            values = torch.full((size,), float(10**rank + step))
            weight = torch.tensor(float(rank + step))
            found.append(shared.sum([[values]], "sum", weight)[0])
            found.append(shared.gather([values[rank:]], "gather")[0])
            if step % 2:
                found.append(shared.gather([values], "again")[0])
        return found

    for found in ranks.run(work):
        results = iter(found)
        for step, size in enumerate(sizes):
            scale = torch.tensor(1.0 / (3 + 3 * step))
            assert torch.equal(next(results), torch.full((size,), 111.0 + 3 * step) * scale)
            of_ranks = [torch.full((size,), float(10**rank + step)) for rank in range(3)]
            cut = [values[rank:] for rank, values in enumerate(of_ranks)]
            assert torch.equal(next(results), torch.cat(cut))
            if step % 2:
                assert torch.equal(next(results), torch.cat(of_ranks))


def test_memory_for_something_large_and_rare_is_given_back(monkeypatch):
    monkeypatch.setattr(shared_memory, "_KEPT_BYTES", 10_000)
    ranks = World(2)

    def work(rank: int) -> list[int]:
        shared = ranks.connect(rank)
        assert shared is not None
        held = []
        for size in (1_000, 1_000_000, 1_000):
            (whole,) = shared.gather([torch.full((size,), rank)], "rows")
            assert whole.tolist() == [0] * size + [1] * size
            held.append(sum(map(len, shared._areas)))
        return held

    for held in ranks.run(work):
        assert held[0] == held[2] > 0 == held[1]


def test_ranks_that_cannot_all_meet_do_without(monkeypatch):
    call = shared_memory._call

    def cannot(rank: int, addresses: list[Any]) -> Any:
        return call(rank, [b"\0nobody"] * len(addresses) if rank == 2 else addresses)

    monkeypatch.setattr(shared_memory, "_call", cannot)
    ranks = World(3)
    assert ranks.run(ranks.connect) == [None, None, None]


@pytest.mark.parametrize("fault", [OSError("not allowed"), AttributeError("an old glibc")])
def test_a_system_without_such_memory_does_without(monkeypatch, fault):
    def memfd_create(name: str) -> int:
        raise fault

    monkeypatch.setattr(os, "memfd_create", memfd_create)
    ranks = World(2)
    assert ranks.run(ranks.connect) == [None, None]


def test_where_one_is_not_willing_all_do_without():
    ranks = World(3)

    def work(rank: int) -> SharedMemory | None:
        return SharedMemory.connect(rank, 3, ranks.gather(rank), willing=rank != 1)

    assert ranks.run(work) == [None, None, None]


def test_other_people_are_not_answered(monkeypatch):
    """A call of another user is closed; the rank's own goes through."""
    own, asked = os.geteuid(), []

    def geteuid() -> int:
        asked.append(None)
        return own + (len(asked) == 1)

    monkeypatch.setattr(os, "geteuid", geteuid)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen(2)
        address = listener.getsockname()
        stranger, known = (shared_memory._call(rank, [address]) for rank in (7, 1))
        peers = shared_memory._answer(listener, {}, 2)
    assert peers is not None
    assert list(peers) == [1]
    with pytest.raises(ConnectionResetError):
        stranger[0].recv(1)
    for each in (stranger, known, peers):
        shared_memory._close(each)


def test_a_call_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(shared_memory, "_CONNECT_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen(1)
        assert shared_memory._answer(listener, {}, 2) is None


def test_no_handle_is_left():
    def handles() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    def work(rank: int) -> None:
        shared = ranks.connect(rank)
        assert shared is not None
        for size in (1, 1000, 10):
            shared.sum([[torch.ones(size)]], "sum")
        shared.close()

    ranks = World(3)
    before = handles()
    for _ in range(3):
        ranks.run(work)
    assert handles() <= before
