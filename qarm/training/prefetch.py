"""Runs an iterator on a thread, a few items ahead of its consumer."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Generic, TypeVar

T = TypeVar("T")
_Message = tuple[str, "T | BaseException | None"]
_NICE = 10


def _lower_priority() -> None:
    """Give this thread, and those that it starts, a lower priority than the training thread.

    Otherwise a burst of decoding delays the step of a rank that has one core, and all other ranks
    wait for it. Only Linux has priorities per thread.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))


class Prefetch(Generic[T]):
    """Items of ``source`` in order; its errors arrive with their traceback.

    Args:
        source: closed when it is exhausted, or when this object is closed.
        ahead: maximum number of items that wait for the consumer.
    """

    def __init__(self, source: Generator[T, None, None], ahead: int) -> None:
        self._queue: queue.Queue[_Message[T]] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source,), daemon=True)
        self._thread.start()

    def _run(self, source: Generator[T, None, None]) -> None:
        _lower_priority()
        try:
            with closing(source):
                for item in source:
                    if not self._put("item", item):
                        return
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)

    def _put(self, kind: str, value: T | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        while True:
            kind, value = self._queue.get()
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            if kind == "end":
                return
            yield value  # type: ignore[misc]

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self._closed.set()
        self._thread.join()
